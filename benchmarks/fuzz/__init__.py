"""Damaged model files and request bodies by the thousand: `python -m benchmarks.fuzz`.

An input is a function of its number and the seed, so that any of them can be made again. They are
tried in worker processes under limits of time and memory; only the errors that the engine and the
gateway raise on purpose count as answers.
"""

"""A worker: a process that holds models and runs batches that gateways send it.

Knows nothing of who started it; `python -m cluster.worker` does so by hand.
"""

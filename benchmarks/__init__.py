"""Latency against other engines, read against what the machine can do. See docs/benchmarks.md."""

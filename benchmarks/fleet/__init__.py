"""What the way over worker processes costs and gains; `python -m benchmarks.fleet`."""

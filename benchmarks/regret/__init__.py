"""What a wrong choice costs; run with ``python -m benchmarks.regret``."""

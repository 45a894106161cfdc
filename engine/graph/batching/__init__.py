"""Which models answer a batch row by row, so that requests may share one run."""

from engine.graph.batching.proof import BatchAxis, batch_axis

__all__ = ["BatchAxis", "batch_axis"]

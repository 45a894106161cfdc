"""Throughput mode: every thread runs rows of a batch of its own.

A gang that shares each operation among its threads answers a single row soonest, but its threads
meet after every operation and read each other's results. Where a batch has rows for all, running
whole programs side by side costs neither. Rows do not depend on their batch, so the bytes are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from engine.direct import Direct

Array = np.ndarray[Any, Any]

_LEAST_NS: Final = 400_000
"""Batches estimated below this stay whole: handing over to Python threads takes some 50 µs."""


class Rows:
    """Splits batches among `workers` threads, the caller's among them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers - 1, thread_name_prefix="packhorse-rows")

    def run(
        self, direct: Direct, arrays: Sequence[Array], sizes: Mapping[str, int]
    ) -> list[Array] | None:
        """The program's outputs for arrays of the model's inputs; None where nothing is gained.

        Axis 0 of all inputs and outputs must be rows that do not meet.
        """
        runner, reads = direct.runner, direct.reads(arrays)
        rows = reads[0].shape[0] if reads else 0
        parts = min(self.workers, rows)
        if parts < 2:
            return None
        ready = runner.bind(sizes)
        if ready.bound.estimate < _LEAST_NS:
            return None
        symbol = str(runner.program.inputs[0].shape[0])  # type: ignore[index]
        outputs = runner.new_outputs(ready)

        def part(index: int) -> None:
            begin, end = rows * index // parts, rows * (index + 1) // parts
            runner.run(
                {**sizes, symbol: end - begin},
                [array[begin:end] for array in reads],
                [array[begin:end] for array in outputs],
            )

        others = [self._threads.submit(part, index) for index in range(1, parts)]
        try:
            part(0)
        finally:
            # Nobody may write into arrays that the caller has let go of.
            failures = [other.exception() for other in others]
        for failure in failures:
            if failure is not None:
                raise failure
        return outputs

    def close(self) -> None:
        """Let the threads end when they have finished."""
        self._threads.shutdown(wait=False)

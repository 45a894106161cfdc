"""What runs in the process of an engine: loads one model, answers and times calls."""

import os
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks import engines
from benchmarks.machine import resident_bytes
from benchmarks.models import Dims, case_inputs, find


class EngineHost:
    """One engine with one model; the remote half of peers and shapes."""

    def __init__(self, setup: engines.EngineSetup, model: str, path: Path) -> None:
        self._setup = setup
        self._model = find(model)
        self._path = path
        self._engine: engines.Engine | None = None
        self._inputs: engines.Arrays = {}

    def load(self) -> tuple[float, int]:
        """Load the model and answer its smallest case; seconds, and bytes that it left resident."""
        if self._setup.cpu is not None:
            os.sched_setaffinity(0, {self._setup.cpu})
        tiny = case_inputs(self._model, self._model.tiny)
        before = resident_bytes()
        start = time.perf_counter()
        self._engine = engines.load(self._path, self._setup)
        self._engine.run(tiny)
        return time.perf_counter() - start, resident_bytes() - before

    def prepare(self, dims: Dims) -> dict[str, NDArray[Any]]:
        """Make the inputs of a case and return the outputs for them."""
        self._inputs = case_inputs(self._model, dims)
        return dict(self._loaded().run(self._inputs))

    def block(self, calls: int, discard: int) -> list[float]:
        """Seconds of each of `calls` successive calls on the prepared case after `discard` more."""
        run, inputs = self._loaded().run, self._inputs
        clock = time.perf_counter
        for _ in range(discard):
            run(inputs)
        times = []
        for _ in range(calls):
            start = clock()
            run(inputs)
            times.append(clock() - start)
        return times

    def visit(self, dims: Dims) -> float:
        """Seconds of a single call on a case."""
        inputs = case_inputs(self._model, dims)
        run = self._loaded().run
        start = time.perf_counter()
        run(inputs)
        return time.perf_counter() - start

    def resident(self) -> int:
        """Physical memory of this process in bytes."""
        return resident_bytes()

    def _loaded(self) -> engines.Engine:
        if self._engine is None:
            raise RuntimeError("load was not called")
        return self._engine

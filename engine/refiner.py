"""Refinement: other schedules of hot products are measured while the engine is idle.

The formulas of `engine.plan.dot_call` choose a product's blocks from its sizes. Where a model asks
for it, a thread looks at the shapes that are asked for most, times each product with its blocks
halved and doubled, and keeps what is faster, for all shapes of the same bucket and for later
processes. It works only while no request has come for a while, stops when one does, and takes at
most `SHARE` of the time. Blocks never change bytes.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import numpy as np

from engine import cpu
from engine.codegen.target import Target
from engine.errors import EngineError
from engine.plan.binding import Bound, Words
from engine.plan.blocks import Blocks, Product, Products
from engine.refined import RefinedStore
from engine.runtime.gang import SCRATCH, Job
from engine.runtime.layout import Op
from engine.runtime.memory import Block, address

if TYPE_CHECKING:
    from engine.runner import Ready, Runner

SHARE: Final = 0.05
"""Most of the time that measuring may take."""

QUIET_S: Final = 0.2
"""Seconds without a request after which the engine counts as idle."""

GAIN: Final = 0.03
"""Least gain for which blocks are changed."""

ROUNDS: Final = 9
_LEAST_RUNS: Final = 3
"""A shape that ran so often is worth a look."""

_LONGEST_NS: Final = 50_000_000
"""Programs predicted to take longer are left alone: a request might have to wait for one run."""

_LARGEST: Final = 256 << 20
"""Bytes of activations beyond which a program is left alone: measuring needs them twice."""


class Refiner:
    """Measures in a thread of its own; one for all sessions of an instruction set and a folder."""

    def __init__(self, store: RefinedStore, target: Target) -> None:
        self._store = store
        self._target = target
        self._cpu = cpu.machine().model_name
        self.chosen: dict[str, Blocks] = store.get(target.name, self._cpu)
        self.measured = 0
        self._done: set[str] = set()
        self._runners: WeakSet[Runner] = WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, runner: Runner) -> None:
        """Refine what this runner runs; what was found earlier is used at once."""
        runner.refine(Products(runner.program, self._target, runner.gang.threads), self.chosen)
        with self._lock:
            self._runners.add(runner)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="packhorse-refiner", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        runs, since = -1, time.monotonic()
        while self._runners:
            time.sleep(QUIET_S / 2)
            now = self._runs()
            if now != runs:
                runs, since = now, time.monotonic()
            elif time.monotonic() - since >= QUIET_S:
                begin = time.monotonic()
                self.step()
                time.sleep((time.monotonic() - begin) * (1 / SHARE - 1))

    def _unchanged(self, runs: int) -> bool:
        return self._runs() == runs

    def _runs(self) -> int:
        return sum(runner.hits + runner.misses for runner in list(self._runners))

    def step(self) -> bool:
        """Measure one product of the shape that is asked for most; whether there was one left."""
        for runner, ready in self._hot():
            try:
                trial = _Trial(runner, ready, self._target)
            except (EngineError, ValueError, OSError, MemoryError):
                self._runners.discard(runner)
                continue
            products = trial.products
            for product in products.found:
                key = products.key(trial.bound, product)
                if key is None or key in self._done or key in self.chosen:
                    continue
                runs = self._runs()
                better = trial.better(product, partial(self._unchanged, runs))
                if better is None:
                    return True
                self._done.add(key)
                self.measured += 1
                if better != products.blocks(trial.bound, product):
                    self.chosen |= self._store.add(self._target.name, self._cpu, {key: better})
                    for each in list(self._runners):
                        each.forget()
                return True
        return False

    def _hot(self) -> Iterator[tuple[Runner, Ready]]:
        """Shapes of all runners, those that ran most first."""
        found = [
            (runner, ready)
            for runner in list(self._runners)
            for ready in runner.programs()
            if ready.runs >= _LEAST_RUNS
            and not ready.slices
            and ready.bound.estimate <= _LONGEST_NS
            and ready.bound.arena <= _LARGEST
        ]
        yield from sorted(found, key=lambda pair: -pair[1].runs * pair[1].bound.estimate)


class _Trial:
    """A program on inputs of zeros and memory of its own, product by product.

    Raises EngineError or ValueError where it does not run on zeros.
    """

    def __init__(self, runner: Runner, ready: Ready, target: Target) -> None:
        self._runner, self._gang = runner, runner.gang
        sizes = dict(zip(runner.program.symbols, ready.key, strict=True))
        self.products = Products(runner.program, target, self._gang.threads)
        self.bound = runner.program.bind(sizes, self._gang.threads)
        if self.bound.operations.reshape(-1, Op.WORDS)[:, Op.TARGET // 8].any():
            raise ValueError("what a loop does, and for how long, depends on its inputs")
        self._arena = Block(max(self.bound.arena, 1))
        inputs = [
            np.zeros([dim.evaluate(sizes) for dim in value.shape or ()], value.dtype)
            for value in runner.program.inputs
        ]
        outputs = [np.zeros(shape, dtype) for _, shape, dtype in ready.outputs]
        self._arrays = (*inputs, *outputs)
        calls = len(runner.program.steps)
        first = len(runner.program.dynamic_at) + 2 * calls
        values = runner.program.code.evaluate([sizes[name] for name in runner.program.symbols])
        self._scratch = values[first : first + calls]
        runner.check(self._run(self.bound.operations, self.bound.count, self.bound))

    def _run(self, operations: Words, count: int, bound: Bound) -> int:
        """Status of a run of some operations on the gang."""
        bases = 2 + len(self._arrays)
        job = Job(operations, count, bound.parameters, bases, self._gang.threads)
        job.bases[0], job.bases[1] = self._arena.address, self._runner.weights.address
        for place, array in enumerate(self._arrays, 2):
            job.bases[place] = address(array)
        self._runner.submitted(job)
        return self._gang.run(job)

    def better(self, product: Product, idle: Callable[[], bool]) -> Blocks | None:
        """The fastest blocks of a product; its own where none is clearly faster. None where the
        engine ceased to be idle."""
        call = product.call
        own = self.products.blocks(self.bound, product)
        tried = [own, *self.products.neighbours(self.bound, product)]
        if 2 * self._scratch[call] > SCRATCH:
            tried = [each for each in tried if each.rows <= own.rows and each.panels <= own.panels]
        programs = []
        for blocks in tried:
            bound = self.bound.copy()
            self.products.change(bound, product, blocks)
            row = bound.operations.reshape(-1, Op.WORDS)[call].copy()
            row[Op.WAIT // 8], row[Op.GROUP // 8], row[Op.TARGET // 8] = 0, 1, 0
            programs.append((row, bound))
        ratios: list[list[float]] = [[] for _ in tried]
        for _ in range(ROUNDS):
            times = []
            for row, bound in programs:
                if not idle():
                    return None
                self._run(row, 1, bound)
                begin = time.perf_counter()
                self._run(row, 1, bound)
                times.append(time.perf_counter() - begin)
            for found, seconds in zip(ratios, times, strict=True):
                found.append(seconds / times[0])
        middle = [statistics.median(found) for found in ratios]
        best = min(range(len(tried)), key=middle.__getitem__)
        return tried[best] if middle[best] < 1 - GAIN else own

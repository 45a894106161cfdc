"""Runners: a native segment on a gang, with its bound programs and idle jobs."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from engine import cpu
from engine.codegen.abi import STATUS_TEXT, Status
from engine.errors import InputError, RunError
from engine.graph.dims import DimError
from engine.graph.ir import Value
from engine.plan.binding import Bound, Sealed
from engine.plan.weights import WeightMemory
from engine.runtime.gang import Gang, Job
from engine.runtime.layout import Gang as GangLayout
from engine.runtime.memory import address

Array = np.ndarray[Any, Any]

_BOUND_BYTES: Final = 64 << 20
"""Bytes of bound programs, with a job for each, that a segment keeps."""

_BRIEF_NS: Final = 100_000
"""Estimated run time up to which an awaiting caller runs a one-thread program itself."""

_IDLE_JOBS: Final = 8
"""Idle jobs kept per bound program; there are more only where many callers came at once."""

_submitted: WeakKeyDictionary[Gang, deque[Job]] = WeakKeyDictionary()
"""The last jobs of each gang. A thread may look at a job for a while after it is finished, but not
once the run queue has gone round: its memory must last that long, whoever drops it."""


class Slot:
    """A job with its base pointers as a memoryview, which is the fastest to write from Python."""

    __slots__ = ("bases", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.bases = job.bases.data


class Ready:
    """A bound program and its idle jobs."""

    __slots__ = ("bound", "idle", "outputs", "size")

    def __init__(self, bound: Bound, dtypes: Sequence[np.dtype[Any]], threads: int) -> None:
        self.bound = bound
        self.idle: list[Slot] = []
        self.outputs = tuple(zip(bound.outputs, dtypes, strict=True))
        self.size = bound.size + bound.count * (threads + 1) * 64


class Runner:
    """A native segment with its bound programs, the least recently used of which go first."""

    def __init__(
        self,
        program: Sealed,
        gang: Gang,
        weights: WeightMemory,
        model: str,
        limit: int = _BOUND_BYTES,
    ) -> None:
        self.program = program
        self.gang = gang
        self.weights = weights
        self.model = model
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.bound_bytes = 0
        self._submitted = _submitted.setdefault(gang, deque(maxlen=GangLayout.SLOTS))
        self._symbols = program.symbols
        self._dtypes = [np.dtype(value.dtype) for value in program.outputs]
        self._bases = 2 + len(program.inputs) + len(program.outputs)
        self._bound: OrderedDict[tuple[int, ...], Ready] = OrderedDict()
        self._lock = threading.Lock()

    def bind(self, sizes: Mapping[str, int]) -> Ready:
        """The program for these sizes; made by one caller, kept while it is used.

        Raises InputError where the sizes do not fit the model.
        """
        key = tuple([sizes[name] for name in self._symbols])
        found = self._bound.get(key)
        if found is None:
            return self._make(key, sizes)
        self.hits += 1
        # A program that was evicted since is still this run's.
        with suppress(KeyError):
            self._bound.move_to_end(key)
        return found

    def _make(self, key: tuple[int, ...], sizes: Mapping[str, int]) -> Ready:
        with self._lock:
            found = self._bound.get(key)
            if found is not None:
                self.hits += 1
                return found
            self.misses += 1
            try:
                bound = self.program.bind(sizes, self.gang.threads)
            except DimError as error:
                raise InputError(f"{self.model}: the inputs' shapes do not fit: {error}") from error
            self._admit(bound)
            found = self._bound[key] = Ready(bound, self._dtypes, self.gang.threads)
            self.bound_bytes += found.size
            while self.bound_bytes > self.limit and len(self._bound) > 1:
                _, old = self._bound.popitem(last=False)
                self.bound_bytes -= old.size
                self.evictions += 1
            return found

    def _admit(self, bound: Bound) -> None:
        """Refuse sizes whose activations and outputs exceed the memory of this process."""
        outputs = sum(
            math.prod(shape) * dtype.itemsize
            for shape, dtype in zip(bound.outputs, self._dtypes, strict=True)
        )
        need, memory = bound.arena + outputs, cpu.usable_memory()
        if need > memory:
            raise InputError(
                f"{self.model}: inputs of these sizes need {need / 2**30:.1f} GiB for activations "
                f"and outputs; this process may use {memory / 2**30:.1f} GiB"
            )

    def prepare(self, ready: Ready, inputs: Sequence[Array]) -> tuple[Slot, list[Array]]:
        """A job on arrays for the program's inputs, with fresh arrays for its outputs."""
        slot = self._idle_slot(ready)
        bases = slot.bases
        outputs = [np.empty(shape, dtype) for shape, dtype in ready.outputs]
        place = 2
        for array in inputs:
            bases[place] = address(array)
            place += 1
        for array in outputs:
            bases[place] = address(array)
            place += 1
        return slot, outputs

    def _idle_slot(self, ready: Ready) -> Slot:
        try:
            slot = ready.idle.pop(0)
        except IndexError:
            return self._new_slot(ready.bound)
        # A job that ran on its caller's thread is no thread's business any more.
        if slot.job.ticket < 0 or self.gang.passed(slot.job):
            return slot
        ready.idle.append(slot)
        return self._new_slot(ready.bound)

    def _new_slot(self, bound: Bound) -> Slot:
        job = Job(bound.operations, bound.count, bound.parameters, self._bases, self.gang.threads)
        slot = Slot(job)
        slot.bases[1] = self.weights.address
        return slot

    def check(self, status: int) -> None:
        """Raise RunError for a bad status, naming the node."""
        if status:
            step = self.program.steps[(status >> 8) - 1]
            text = STATUS_TEXT.get(Status(status & 0xFF), f"kernel status {status & 0xFF}")
            raise RunError(f"{self.model}: node {step.label} ({step.op}): {text}")

    def run(self, sizes: Mapping[str, int], inputs: Sequence[Array]) -> list[Array]:
        """Outputs for arrays of the program's inputs."""
        ready = self.bind(sizes)
        slot, outputs = self.prepare(ready, inputs)
        bound, job = ready.bound, slot.job
        if bound.inline:
            status = self._inline(bound, job)
        else:
            job.notify(-1)
            # The name keeps the arena mapped until the job is over.
            arena = self.gang.arena(bound.arena)
            slot.bases[0] = arena.address
            self._submitted.append(job)
            status = self.gang.run(job)
        self._finish(ready, slot, status)
        return outputs

    async def run_async(self, sizes: Mapping[str, int], inputs: Sequence[Array]) -> list[Array]:
        """As `run`, awaiting completion on the running asyncio loop."""
        ready = self.bind(sizes)
        slot, outputs = self.prepare(ready, inputs)
        bound, job = ready.bound, slot.job
        if bound.inline and bound.estimate < _BRIEF_NS:
            status = self._inline(bound, job)
        else:
            # Imports asyncio, which takes longer than loading a small model.
            from engine.runtime.completion import Completions

            arena = self.gang.arena(bound.arena)
            slot.bases[0] = arena.address
            self._submitted.append(job)
            keep = (arena, inputs, outputs, ready)
            status = await Completions.here().run(self.gang, job, keep)
        self._finish(ready, slot, status)
        return outputs

    def _inline(self, bound: Bound, job: Job) -> int:
        with self.gang.inline:
            return self.gang.run_inline(job, bound.arena)

    def _finish(self, ready: Ready, slot: Slot, status: int) -> None:
        if len(ready.idle) < _IDLE_JOBS:
            ready.idle.append(slot)
        if status:
            self.check(status)


class Direct:
    """The way of a model that is one native segment: from its inputs to its outputs by position."""

    def __init__(
        self, runner: Runner, inputs: Sequence[int], outputs: Sequence[tuple[str, int]]
    ) -> None:
        self.runner = runner
        self._inputs = inputs
        self._outputs = outputs

    @classmethod
    def of(
        cls, runner: Runner | None, inputs: Sequence[Value], outputs: Sequence[Value]
    ) -> Direct | None:
        """The direct way, None where an output is an input, a constant or known from sizes."""
        if runner is None:
            return None
        made = {id(value): place for place, value in enumerate(runner.program.outputs)}
        if {id(value) for value in outputs} != made.keys() or len(outputs) != len(made):
            return None
        places = {id(value): place for place, value in enumerate(inputs)}
        reads = [places[id(value)] for value in runner.program.inputs]
        return cls(runner, reads, [(value.name, made[id(value)]) for value in outputs])

    def reads(self, arrays: Sequence[Array]) -> list[Array]:
        """Arrays of the program's inputs out of those of the model's."""
        return [arrays[place] for place in self._inputs]

    def named(self, results: Sequence[Array], wanted: Sequence[str] | None) -> dict[str, Array]:
        """Outputs by name; all, or those that are wanted."""
        found = {name: results[place] for name, place in self._outputs}
        return found if wanted is None else {name: found[name] for name in wanted}

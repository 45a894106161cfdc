"""Runners: a native segment on a gang, with its bound programs and idle jobs."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from engine import cpu
from engine.codegen.abi import STATUS_TEXT, Status
from engine.errors import InputError, RunError
from engine.graph.dims import DimError
from engine.plan.binding import Bound, Sealed
from engine.plan.blocks import Chosen, Products
from engine.plan.weights import WeightMemory
from engine.runtime.gang import Gang, Job
from engine.runtime.layout import Gang as GangLayout
from engine.runtime.memory import address
from engine.slices import Slices

Array = np.ndarray[Any, Any]

_OBJECTS: Final = 1536
"""Bytes of the Python objects that stand for a bound program: sizes, shapes, places in tables."""

Shapes = tuple[tuple[int, ...], ...]

_BOUND_BYTES: Final = 12 << 20
"""Bytes of bound programs, with a job for each, that a segment keeps: hundreds to thousands. One
more would save the next visit to its shape less than 100 µs."""

_LITTLE: Final = 1 << 20
"""Bytes that every process may use."""

_BRIEF_NS: Final = 100_000
"""Estimated run time up to which an awaiting caller runs a one-thread program itself."""

_IDLE_JOBS: Final = 8
"""Idle jobs kept per bound program; there are more only where many callers came at once."""

_submitted: WeakKeyDictionary[Gang, deque[Job]] = WeakKeyDictionary()
"""The last jobs of each gang. A thread may look at a job for a while after it is finished, but not
once the run queue has gone round: its memory must last that long, whoever drops it."""


def progress() -> int | None:
    """A number that changes while native runs of this process get on; None where none is under way.

    Runs that are cheap enough to be inline on their caller's thread are not seen.
    """
    found = None
    for gang, jobs in list(_submitted.items()):
        unfinished = [job for job in list(jobs) if job.ticket >= 0 and not job.finished]
        if unfinished:
            claimed = sum(job.position for job in unfinished)
            found = (found or 0) + gang.position + claimed
    return found


class Ready:
    """A bound program and its idle jobs.

    `used` is set by every run and taken back when others are evicted, `gone` once it is evicted.
    `key` holds the sizes that it is bound to, `runs` counts how often it was asked for, `outputs`
    are names, shapes and data types. Where `slices` are given, they run in its stead. `shapes` are
    those under which the runner's `known` finds it.
    """

    __slots__ = (
        "bound",
        "gone",
        "idle",
        "key",
        "outputs",
        "runs",
        "shapes",
        "size",
        "slices",
        "used",
    )

    def __init__(
        self,
        key: tuple[int, ...],
        bound: Bound,
        named: Sequence[tuple[str, np.dtype[Any]]],
        threads: int,
    ) -> None:
        self.key = key
        self.bound = bound
        self.runs = 1
        self.used = False
        self.gone = False
        self.slices: tuple[tuple[int, int, Ready], ...] = ()
        self.shapes: Shapes | None = None
        self.idle: list[Job] = []
        self.outputs = [
            (name, shape, dtype) for (name, dtype), shape in zip(named, bound.outputs, strict=True)
        ]
        self.size = bound.memory.nbytes + bound.count * (threads + 1) * 64 + _OBJECTS


class Runner:
    """A native segment with its bound programs; those that were not used lately go first."""

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
        self._named = [(value.name, np.dtype(value.dtype)) for value in program.outputs]
        self._bases = 2 + len(program.inputs) + len(program.outputs)
        self.base = weights.array()
        self._bound: OrderedDict[tuple[int, ...], Ready] = OrderedDict()
        # Programs by the shapes of inputs, for callers; what is evicted leaves it too.
        self.known: dict[Shapes, Ready] = {}
        self._lock = threading.Lock()
        self._products: Products | None = None
        self._chosen: Chosen = {}
        self._slices: Slices | None = None

    def refine(self, products: Products, chosen: Chosen) -> None:
        """Bind with the blocks of `chosen`, which may grow, from now on."""
        self._products, self._chosen = products, chosen

    def slice(self, slices: Slices) -> None:
        """Run large batches in slices from now on."""
        self._slices = slices

    def programs(self) -> list[Ready]:
        """What is bound at present."""
        with self._lock:
            return list(self._bound.values())

    def forget(self) -> None:
        """Bind everything anew at its next run; runs in progress end on what they have."""
        with self._lock:
            for ready in self._bound.values():
                ready.gone = True
            self._bound.clear()
            self.known.clear()
            self.bound_bytes = 0

    def bind(self, sizes: Mapping[str, int]) -> Ready:
        """The program for these sizes; made by one caller, kept while it is used.

        Raises InputError where the sizes do not fit the model.
        """
        return self.bind_to(tuple([sizes[name] for name in self._symbols]))

    def bind_to(self, key: tuple[int, ...]) -> Ready:
        """As `bind`, for the sizes of the program's symbols in order."""
        found = self._bound.get(key)
        if found is None:
            found = self._make(key)
            if self._slices is not None and self._slices.concern(found.bound):
                sizes = dict(zip(self._symbols, key, strict=True))
                found.slices = self._slices.of(found.bound, sizes, self.bind)
            return found
        self.hits += 1
        found.runs += 1
        found.used = True
        return found

    def _make(self, key: tuple[int, ...]) -> Ready:
        with self._lock:
            found = self._bound.get(key)
            if found is not None:
                self.hits += 1
                return found
            self.misses += 1
            try:
                bound = self.program.bind_to(key, self.gang.threads)
            except DimError as error:
                raise InputError(f"{self.model}: the inputs' shapes do not fit: {error}") from error
            found = Ready(key, bound, self._named, self.gang.threads)
            need = bound.arena
            for _, shape, dtype in found.outputs:
                need += math.prod(shape) * dtype.itemsize
            if need > _LITTLE:
                self.admit(need)
            if self._products is not None:
                self._products.apply(bound, self._chosen)
            self.bound_bytes += found.size
            while self.bound_bytes > self.limit and self._bound:
                old_key, old = self._bound.popitem(last=False)
                if old.used:
                    # Another turn for what ran since it was last looked at (the clock algorithm).
                    old.used = False
                    self._bound[old_key] = old
                    continue
                old.gone = True
                if old.shapes is not None:
                    self.known.pop(old.shapes, None)
                self.bound_bytes -= old.size
                self.evictions += 1
            self._bound[key] = found
            return found

    def admit(self, need: int) -> None:
        """Refuse sizes whose activations and outputs exceed the memory of this process."""
        memory = cpu.usable_memory()
        if need > memory:
            raise InputError(
                f"{self.model}: inputs of these sizes need {need / 2**30:.1f} GiB for activations "
                f"and outputs; this process may use {memory / 2**30:.1f} GiB"
            )

    def prepare(
        self, ready: Ready, inputs: Sequence[Array], outputs: Sequence[Array] | None = None
    ) -> tuple[Job, Sequence[Array]]:
        """A job on arrays for the program's inputs and outputs; these are made where not given."""
        job = self.idle_job(ready)
        bases = job.bases
        if outputs is None:
            outputs = self.new_outputs(ready)
        place = 2
        for array in inputs:
            bases[place] = address(array)
            place += 1
        for array in outputs:
            bases[place] = address(array)
            place += 1
        return job, outputs

    def new_outputs(self, ready: Ready) -> list[Array]:
        """Arrays for the program's outputs. Raises InputError where there is no memory for them."""
        try:
            return [np.empty(shape, dtype) for _, shape, dtype in ready.outputs]
        except MemoryError as error:
            raise self.no_room(error) from None

    def no_room(self, error: MemoryError) -> InputError:
        """What to raise where outputs find no memory: other arrays or a limit of address space
        may leave less than the process may use."""
        return InputError(f"{self.model}: no memory for the outputs: {error}")

    def idle_job(self, ready: Ready) -> Job:
        """A job of the program for the gang, that no thread looks at; `finish` takes it back."""
        try:
            job = ready.idle.pop(0)
        except IndexError:
            return self.new_job(ready.bound)
        if self.gang.passed(job):
            return job
        ready.idle.append(job)
        return self.new_job(ready.bound)

    def new_job(self, bound: Bound) -> Job:
        """A job of its own for a bound program; bases 2 and on are for inputs, then outputs."""
        job = Job(bound.operations, bound.count, bound.parameters, self._bases, self.gang.threads)
        job.bases[1] = self.weights.address
        return job

    def submitted(self, job: Job) -> None:
        """Keep a job that the gang is given for as long as its threads may look at it."""
        self._submitted.append(job)

    def check(self, status: int) -> None:
        """Raise RunError for a bad status, naming the node."""
        if status:
            step = self.program.steps[(status >> 8) - 1]
            text = STATUS_TEXT.get(Status(status & 0xFF), f"kernel status {status & 0xFF}")
            raise RunError(f"{self.model}: node {step.label} ({step.op}): {text}")

    def run(
        self,
        sizes: Mapping[str, int],
        inputs: Sequence[Array],
        outputs: Sequence[Array] | None = None,
    ) -> Sequence[Array]:
        """Outputs for arrays of the program's inputs, in `outputs` where these are given."""
        return self.run_bound(self.bind(sizes), inputs, outputs)

    def run_bound(
        self, ready: Ready, inputs: Sequence[Array], outputs: Sequence[Array] | None = None
    ) -> Sequence[Array]:
        """As `run`, for a program that is bound."""
        if ready.slices:
            if outputs is None:
                outputs = self.new_outputs(ready)
            for begin, end, part in ready.slices:
                made = [array[begin:end] for array in outputs]
                self.run_bound(part, [array[begin:end] for array in inputs], made)
            return outputs
        bound = ready.bound
        if bound.inline:
            if outputs is None:
                outputs = self.new_outputs(ready)
            self.run_inline(bound, [self.base, *inputs, *outputs])
            return outputs
        job, outputs = self.prepare(ready, inputs, outputs)
        job.notify(-1)
        # The name keeps the arena mapped until the job is over.
        arena = self.gang.arena(bound.arena)
        job.bases[0] = arena.address
        self.submitted(job)
        self.finish(ready, job, self.gang.run(job))
        return outputs

    def run_inline(self, bound: Bound, arrays: Sequence[Array]) -> None:
        """Run a program on the calling thread on `base`, arrays for its inputs, and outputs."""
        status = self.gang.run_inline(bound.memory, bound.arena, arrays)
        if status:
            self.check(status)

    async def run_async(self, sizes: Mapping[str, int], inputs: Sequence[Array]) -> Sequence[Array]:
        """As `run`, awaiting completion on the running asyncio loop."""
        ready = self.bind(sizes)
        if not ready.slices:
            return await self._run_async(ready, inputs)
        outputs = self.new_outputs(ready)
        for begin, end, part in ready.slices:
            made = [array[begin:end] for array in outputs]
            await self._run_async(part, [array[begin:end] for array in inputs], made)
        return outputs

    async def _run_async(
        self, ready: Ready, inputs: Sequence[Array], outputs: Sequence[Array] | None = None
    ) -> Sequence[Array]:
        bound = ready.bound
        if bound.inline and bound.estimate < _BRIEF_NS:
            return self.run_bound(ready, inputs, outputs)
        # Imports asyncio, which takes longer than loading a small model.
        from engine.runtime.completion import Completions

        job, outputs = self.prepare(ready, inputs, outputs)
        arena = self.gang.arena(bound.arena)
        job.bases[0] = arena.address
        self.submitted(job)
        keep = (arena, inputs, outputs, ready)
        status = await Completions.here().run(self.gang, job, keep)
        self.finish(ready, job, status)
        return outputs

    def finish(self, ready: Ready, job: Job, status: int) -> None:
        """Keep the job for later runs; raise where its status is bad."""
        if len(ready.idle) < _IDLE_JOBS:
            ready.idle.append(job)
        if status:
            self.check(status)

"""Execution of a plan: native segments, fallbacks and control flow, one after the other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from engine.codegen.abi import STATUS_TEXT, Status
from engine.errors import InputError, RunError
from engine.graph.dims import DimError
from engine.graph.ir import Graph, Value
from engine.plan.program import Bound, Program
from engine.plan.segments import Control, Fallback, Segment
from engine.runtime.gang import Gang, Job
from engine.runtime.memory import address
from engine.runtime.reference import control_flow

Values = dict[int, Any]
"""Arrays (lists for sequences) by ``id`` of their graph value."""

_BOUND_PROGRAMS: Final = 256
"""Bound programs kept per segment; each takes some ten kilobytes."""

_BRIEF_NS: Final = 100_000
"""Estimated run time up to which an awaiting caller runs a one-thread program itself."""


class Runner:
    """A native segment with its bound programs and idle jobs."""

    def __init__(self, program: Program, gang: Gang, weights: int, model: str) -> None:
        self.program = program
        self.gang = gang
        self.weights = weights
        self.model = model
        self.binds = 0
        self._bound: OrderedDict[tuple[int, ...], tuple[Bound, list[Job]]] = OrderedDict()
        self._lock = threading.Lock()

    def bind(self, sizes: Mapping[str, int]) -> tuple[Bound, list[Job]]:
        """The program for these sizes and its idle jobs; made by one caller, kept while used."""
        key = tuple([sizes[name] for name in self.program.symbols])
        found = self._bound.get(key)
        if found is None:
            with self._lock:
                found = self._bound.get(key)
                if found is None:
                    self.binds += 1
                    found = (self._bind(sizes), [])
                    self._bound[key] = found
                    if len(self._bound) > _BOUND_PROGRAMS:
                        self._bound.popitem(last=False)
        return found

    def _bind(self, sizes: Mapping[str, int]) -> Bound:
        try:
            return self.program.bind(sizes, self.gang.threads)
        except DimError as error:
            raise InputError(f"{self.model}: the inputs' shapes do not fit: {error}") from error

    def prepare(
        self, sizes: Mapping[str, int], arrays: Mapping[int, Any]
    ) -> tuple[Bound, list[Job], Job, list[np.ndarray[Any, Any]]]:
        """A job on the inputs' arrays, with fresh arrays for its outputs."""
        bound, idle = self.bind(sizes)
        program = self.program
        job = self._idle_job(idle)
        if job is None:
            bases = 2 + len(program.inputs) + len(program.outputs)
            job = Job(bound.operations, bound.count, bound.parameters, bases, self.gang.threads)
        outputs = [
            np.empty(shape, value.dtype)
            for shape, value in zip(bound.outputs, program.outputs, strict=True)
        ]
        job.bases[1] = self.weights
        place = 2
        for value in program.inputs:
            job.bases[place] = address(arrays[id(value)])
            place += 1
        for array in outputs:
            job.bases[place] = address(array)
            place += 1
        return bound, idle, job, outputs

    def _idle_job(self, idle: list[Job]) -> Job | None:
        try:
            job = idle.pop(0)
        except IndexError:
            return None
        if self.gang.passed(job):
            return job
        idle.append(job)
        return None

    def check(self, status: int) -> None:
        """Raise RunError for a bad status, naming the node."""
        if status:
            node = self.program.node_of((status >> 8) - 1)
            text = STATUS_TEXT.get(Status(status & 0xFF), f"kernel status {status & 0xFF}")
            raise RunError(f"{self.model}: node {node.label} ({node.key}): {text}")

    def run(self, values: Values, sizes: Mapping[str, int]) -> None:
        """Run to the end and add the outputs to `values`."""
        bound, idle, job, results = self.prepare(sizes, values)
        if bound.inline:
            status = self._inline(bound, job)
        else:
            job.notify(-1)
            # The name keeps the arena mapped until the job is over.
            arena = self.gang.arena(bound.arena)
            job.bases[0] = arena.address
            status = self.gang.run(job)
        self._finish(idle, job, status, values, results)

    async def run_async(self, values: Values, sizes: Mapping[str, int]) -> None:
        """As `run`, awaiting completion on the running asyncio loop."""
        bound, idle, job, results = self.prepare(sizes, values)
        if bound.inline and bound.estimate < _BRIEF_NS:
            status = self._inline(bound, job)
        else:
            # Imports asyncio, which takes longer than loading a small model.
            from engine.runtime.completion import Completions

            arena = self.gang.arena(bound.arena)
            job.bases[0] = arena.address
            keep = (arena, values, results, bound)
            status = await Completions.here().run(self.gang, job, keep)
        self._finish(idle, job, status, values, results)

    def _inline(self, bound: Bound, job: Job) -> int:
        with self.gang.inline:
            return self.gang.run_inline(job, bound.arena)

    def _finish(
        self, idle: list[Job], job: Job, status: int, values: Values, results: list[Any]
    ) -> None:
        idle.append(job)
        self.check(status)
        for value, array in zip(self.program.outputs, results, strict=True):
            values[id(value)] = array


class Executor:
    """The segments of a plan, ready to run; reentrant."""

    def __init__(self, segments: Sequence[Segment], gang: Gang, weights: int, model: str) -> None:
        self.steps: list[Runner | Fallback | tuple[Control, dict[str, Executor]]] = []
        for segment in segments:
            if isinstance(segment, Program):
                self.steps.append(Runner(segment, gang, weights, model))
            elif isinstance(segment, Fallback):
                self.steps.append(segment)
            else:
                bodies = {
                    name: Executor(inner, gang, weights, model)
                    for name, (_, inner) in segment.bodies.items()
                }
                self.steps.append((segment, bodies))

    @property
    def single(self) -> Runner | None:
        """The one native segment that is all there is, else None."""
        if len(self.steps) == 1 and isinstance(self.steps[0], Runner):
            return self.steps[0]
        return None

    def runners(self) -> list[Runner]:
        """Native segments, those of subgraphs too."""
        found: list[Runner] = []
        for step in self.steps:
            if isinstance(step, Runner):
                found.append(step)
            elif isinstance(step, tuple):
                found.extend(runner for body in step[1].values() for runner in body.runners())
        return found

    def run(self, values: Values, sizes: dict[str, int]) -> None:
        """Run every segment; both mappings grow by what becomes known."""
        for step in self.steps:
            if isinstance(step, Runner):
                step.run(values, sizes)
            elif isinstance(step, Fallback):
                operands = [content(value, values, sizes) for value in step.kernel.operands]
                results = step.kernel.run(operands)
                _enter(step.node.outputs, results, values, sizes)
            else:
                self._control(*step, values, sizes)

    def _control(
        self,
        segment: Control,
        bodies: Mapping[str, Executor],
        values: Values,
        sizes: dict[str, int],
    ) -> None:
        def body(name: str, _: list[Any]) -> Callable[[list[Any]], list[Any]]:
            graph = segment.bodies[name][0]
            return partial(_run_body, bodies[name], graph, values, sizes)

        call = control_flow(segment.node, body)
        results = call([content(value, values, sizes) for value in segment.node.inputs])
        _enter(segment.node.outputs, results, values, sizes)


def _run_body(
    body: Executor,
    graph: Graph,
    values: Values,
    sizes: Mapping[str, int],
    arrays: list[Any],
) -> list[Any]:
    """One pass through a subgraph, on copies: a loop's sizes may differ from turn to turn."""
    own = {symbol for v in graph.inputs for dim in v.shape or () for symbol in dim.symbols}
    inner_values = dict(values)
    inner_sizes = {name: size for name, size in sizes.items() if name not in own}
    _enter(graph.inputs, arrays, inner_values, inner_sizes)
    body.run(inner_values, inner_sizes)
    return [content(value, inner_values, inner_sizes) for value in graph.outputs]


def _enter(
    outputs: Sequence[Value], results: Sequence[Any], values: Values, sizes: dict[str, int]
) -> None:
    """Take over arrays that Python computed, and the sizes that they reveal."""
    for value, result in zip(outputs, results, strict=False):
        array: Any = result
        if isinstance(result, np.ndarray | np.generic):
            array = np.ascontiguousarray(result).reshape(np.shape(result))
            for dim, size in zip(value.shape or (), array.shape, strict=False):
                name = str(dim)
                if dim.symbols == {name}:
                    sizes.setdefault(name, size)
        values[id(value)] = array


def content(value: Value | None, values: Values, sizes: Mapping[str, int]) -> Any:
    """Array of a value: computed, constant, or following from the sizes; None where omitted."""
    if value is None:
        return None
    found = values.get(id(value))
    if found is not None:
        return found
    if value.data is not None:
        return value.data
    if value.dims is None:
        return None
    elements = [dim.evaluate(sizes) for dim in value.dims]
    shape = tuple(dim.evaluate(sizes) for dim in value.shape or ())
    return np.array(elements, value.dtype).reshape(shape)

"""Sessions: a loaded model, ready to run at any shape."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.codegen.abi import STATUS_TEXT, Status
from engine.codegen.compiler import Compiler
from engine.codegen.store import CodeStore
from engine.codegen.target import Target, select
from engine.errors import EngineError, InputError, RunError
from engine.explanation import Explanation
from engine.graph.batching import batch_axis
from engine.graph.dims import DimError
from engine.graph.inference import Guard, infer
from engine.graph.ir import Value
from engine.graph.passes import PassReport
from engine.graph.reader import read
from engine.optimise import optimise
from engine.plan.explain import Record, explain
from engine.plan.program import Bound, Program
from engine.plan.segments import Fallback, Plan, plan
from engine.plan.weights import WeightMemory
from engine.runtime.completion import Completions
from engine.runtime.gang import Gang, Job, Native, usable
from engine.runtime.memory import address
from engine.specification import Arguments, Progress, TensorSpec, specify

Report = Callable[[Progress], None]

_BOUND_PROGRAMS: Final = 256
"""Bound programs kept per segment; each takes some ten kilobytes."""


class Pool:
    """What sessions of one instruction set and cache folder share: compiler, native code, gangs."""

    _pools: dict[tuple[str, Path | None], Pool] = {}  # noqa: RUF012 - one registry per process
    _lock = threading.Lock()

    def __init__(self, target: Target, folder: Path | None) -> None:
        self.compiler = Compiler(target, CodeStore(folder), usable(None))
        self.native = Native(self.compiler)
        self.gangs: dict[int, Gang] = {}

    @classmethod
    def of(cls, isa: str | None, folder: Path | None) -> Pool:
        """The pool for an instruction set and a cache folder."""
        target = select(isa)
        with cls._lock:
            key = (target.name, folder)
            if key not in cls._pools:
                cls._pools[key] = cls(target, folder)
            return cls._pools[key]

    def gang(self, threads: int) -> Gang:
        """The gang of `threads` threads."""
        with self._lock:
            if threads not in self.gangs:
                self.gangs[threads] = Gang(self.native, threads)
            return self.gangs[threads]


class _Runner:
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
                    found = (self.program.bind(sizes, self.gang.threads), [])
                    self._bound[key] = found
                    if len(self._bound) > _BOUND_PROGRAMS:
                        self._bound.popitem(last=False)
        return found

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


class Session:
    """A loaded model. Thread-safe; made by `load`."""

    def __init__(
        self,
        name: str,
        inputs: tuple[Value, ...],
        outputs: tuple[Value, ...],
        made: Plan,
        pool: Pool,
        gang: Gang,
        guards: Sequence[Guard],
        record: Record,
        batching: tuple[bool, str],
    ) -> None:
        self.name = name
        self.inputs: tuple[TensorSpec, ...] = tuple(map(specify, inputs))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(specify, outputs))
        self.batch_axis, self.batch_reason = batching
        self._inputs, self._outputs = inputs, outputs
        self._arguments = Arguments(name, inputs)
        self._guards = [g for g in guards if g.left != g.right]
        self._record = record
        self._pool = pool
        self._gang = gang
        self._weights = WeightMemory(made.weights)
        programs = [s for s in made.segments if isinstance(s, Program)]
        addresses = pool.compiler.functions(s for p in programs for s in p.specs())
        for program in programs:
            program.seal(addresses, self._weights.offsets)
        for buffer in made.weights:
            buffer.data = None
        self._segments: list[_Runner | Fallback] = [
            _Runner(s, gang, self._weights.address, name) if isinstance(s, Program) else s
            for s in made.segments
        ]
        self._runs = 0
        self._serial = threading.Lock()

    # -- running ----------------------------------------------------------------------------------

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name for arrays by name; `outputs` picks some, None gives all.

        The GIL is released while kernels run. Raises InputError for arrays that do not fit the
        model, RunError where the model itself fails on them.
        """
        arrays, values, sizes = self._enter(inputs, outputs)
        for segment in self._segments:
            if isinstance(segment, Fallback):
                self._fall_back(segment, values, sizes)
                continue
            bound, idle, job, results = segment.prepare(sizes, values)
            job.notify(-1)
            if bound.inline:
                with self._serial:
                    status = self._gang.run_inline(job, bound.arena)
            else:
                arena = self._gang.arena(bound.arena)
                job.bases[0] = arena.address
                status = self._gang.run(job)
            idle.append(job)
            segment.check(status)
            self._store(segment, values, results)
        return self._leave(values, sizes, outputs)

    async def run_async(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `run`, awaiting completion on the running asyncio loop through an eventfd."""
        if len(self._segments) != 1 or isinstance(self._segments[0], Fallback):
            return await asyncio.to_thread(self.run, inputs, outputs)
        arrays, values, sizes = self._enter(inputs, outputs)
        segment = self._segments[0]
        bound, idle, job, results = segment.prepare(sizes, values)
        if bound.inline and bound.estimate < 100_000:
            with self._serial:
                status = self._gang.run_inline(job, bound.arena)
        else:
            arena = self._gang.arena(bound.arena)
            job.bases[0] = arena.address
            status = await Completions.here().run(self._gang, job, (arena, values, results))
        idle.append(job)
        segment.check(status)
        self._store(segment, values, results)
        return self._leave(values, sizes, outputs)

    def _enter(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None
    ) -> tuple[dict[str, Any], dict[int, Any], dict[str, int]]:
        if outputs is not None:
            known = {spec.name for spec in self.outputs}
            for name in outputs:
                if name not in known:
                    raise InputError(
                        f"{self.name}: there is no output {name!r}; "
                        f"outputs are {', '.join(spec.name for spec in self.outputs)}"
                    )
        arrays = dict(inputs)
        sizes = self._arguments.sizes(arrays)
        try:
            for guard in self._guards:
                if not (guard.left.symbols | guard.right.symbols) <= sizes.keys():
                    continue
                if guard.left.evaluate(sizes) != guard.right.evaluate(sizes):
                    raise InputError(f"{self.name}: {guard.message}")
        except DimError as error:
            raise InputError(f"{self.name}: {error}") from error
        self._runs += 1
        return arrays, {id(v): arrays[v.name] for v in self._inputs}, sizes

    def _fall_back(
        self, segment: Fallback, values: dict[int, Any], sizes: dict[str, int]
    ) -> None:
        operands = [
            None if v is None else self._array(v, values, sizes) for v in segment.kernel.operands
        ]
        results = segment.kernel.run(operands)
        for value, result in zip(segment.node.outputs, results, strict=False):
            if isinstance(result, np.ndarray | np.generic):
                result = np.ascontiguousarray(result)
                for dim, size in zip(value.shape or (), result.shape, strict=False):
                    if len(dim.symbols) == 1 and str(dim) in dim.symbols:
                        sizes.setdefault(str(dim), size)
            values[id(value)] = result

    @staticmethod
    def _store(segment: _Runner, values: dict[int, Any], results: list[Any]) -> None:
        for value, array in zip(segment.program.outputs, results, strict=True):
            values[id(value)] = array

    @staticmethod
    def _array(value: Value, values: Mapping[int, Any], sizes: Mapping[str, int]) -> Any:
        found = values.get(id(value))
        if found is not None:
            return found
        if value.data is not None:
            return value.data
        assert value.dims is not None, f"{value.name} has no content"
        elements = [dim.evaluate(sizes) for dim in value.dims]
        shape = tuple(dim.evaluate(sizes) for dim in value.shape or ())
        return np.array(elements, value.dtype).reshape(shape)

    def _leave(
        self, values: Mapping[int, Any], sizes: Mapping[str, int], outputs: Sequence[str] | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        given = {id(values[id(v)]) for v in self._inputs if id(v) in values}
        results: dict[str, np.ndarray[Any, Any]] = {}
        for spec, value in zip(self.outputs, self._outputs, strict=True):
            if outputs is None or spec.name in outputs:
                array = self._array(value, values, sizes)
                own = id(array) not in given and value.data is None
                results[spec.name] = array if own else array.copy()
        return results

    # -- about the session ------------------------------------------------------------------------

    def explain(self) -> Explanation:
        """What became of the model: passes, kernels, fallbacks and why, packed bytes."""
        return explain(self._record)

    def stats(self) -> dict[str, int | float]:
        """Counters: runs, binds, kernels compiled, packed bytes, code store hits and misses."""
        runners = [s for s in self._segments if isinstance(s, _Runner)]
        store = self._pool.compiler.store
        return {
            "runs": self._runs,
            "binds": sum(runner.binds for runner in runners),
            "native_segments": len(runners),
            "fallback_segments": len(self._segments) - len(runners),
            "weight_bytes": self._weights.size,
            "threads": self._gang.threads,
            "kernels_compiled": self._pool.compiler.compiled,
            "compile_seconds": self._pool.compiler.seconds,
            "code_hits": store.hits,
            "code_misses": store.misses,
            "code_evictions": store.evictions,
        }

    def close(self) -> None:
        """Release programs and weights; runs in flight finish first."""
        with self._serial:
            self._segments = []


def load(
    source: str | Path | bytes,
    threads: int | None = None,
    *,
    isa: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Report | None = None,
) -> Session:
    """Load an ONNX model from a file or its bytes.

    `threads` is the number of threads a run may use (None: what affinity and control groups allow),
    `isa` masks CPU features (``baseline``, ``avx2``, ``avx512``; None: the strongest here),
    `cache_dir` keeps compiled code (None: ``PACKHORSE_CACHE_DIR``, else the user's cache folder),
    `progress` is called as loading proceeds. Raises ModelError for a model that cannot be run and
    CompileError where code cannot be generated.
    """

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(stage, done, total))

    report("reading", 0, 1)
    graph = read(source)
    name = Path(source).stem if isinstance(source, str | Path) else graph.name or "model"
    pool = Pool.of(isa, Path(cache_dir) if cache_dir is not None else None)
    gang = pool.gang(usable(threads))
    infer(graph)
    record = Record.of(name, graph, pool.compiler.target.name, gang.threads)
    axis = batch_axis(graph)
    reports: list[PassReport] = optimise(graph)
    guards = infer(graph)
    report("planning", 0, 1)
    made = plan(graph, pool.compiler.target, gang.threads)
    record.finish(graph, reports, made)
    specs = [s for p in made.segments if isinstance(p, Program) for s in p.specs()]
    pool.compiler.functions(specs, lambda done, total: report("compiling", done, total))
    try:
        session = Session(
            name,
            tuple(graph.inputs),
            tuple(graph.outputs),
            made,
            pool,
            gang,
            guards,
            record,
            (axis.independent, axis.reason),
        )
    except MemoryError as error:
        raise EngineError(f"{name}: not enough memory for the weights") from error
    report("ready", 1, 1)
    return session

"""Sessions: a loaded model, ready to run at any shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.codegen.compiler import Compiler
from engine.codegen.store import CodeStore
from engine.codegen.target import Target, select
from engine.errors import EngineError, InputError, RunError
from engine.execution import Executor, Values, content
from engine.explanation import Explanation
from engine.plan.binding import BIND
from engine.plan.prepared import Prepared
from engine.plan.store import PlanStore, renamed
from engine.plan.weights import WeightMemory
from engine.runner import Direct
from engine.runtime.gang import Gang, Native, usable
from engine.specification import Arguments, Progress, TensorSpec, specify

Report = Callable[[Progress], None]


class Pool:
    """What sessions of one instruction set and cache folder share: compiler, stores, gangs."""

    _pools: dict[tuple[str, Path | None], Pool] = {}  # noqa: RUF012 - one registry per process
    _lock = threading.Lock()

    def __init__(self, target: Target, folder: Path | None) -> None:
        self.compiler = Compiler(target, CodeStore(folder), usable(None))
        self.plans = PlanStore(folder)
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

    @cached_property
    def native(self) -> Native:
        """The runtime's own kernels; compiled at first use."""
        return Native(self.compiler)

    def start(self) -> None:
        """Compile the runtime's own kernels; what goes wrong is told when they are used."""
        with suppress(EngineError, OSError):
            _ = self.native
            self.compiler.functions([BIND])

    def gang(self, threads: int) -> Gang:
        """The gang of `threads` threads."""
        with self._lock:
            if threads not in self.gangs:
                self.gangs[threads] = Gang(self.native, threads)
            return self.gangs[threads]


class Session:
    """A loaded model. Thread-safe; made by `load`."""

    def __init__(self, prepared: Prepared, pool: Pool, gang: Gang) -> None:
        self.name = prepared.name
        self.inputs: tuple[TensorSpec, ...] = tuple(map(specify, prepared.inputs))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(specify, prepared.outputs))
        self.batch_axis, self.batch_reason = prepared.batching
        self._inputs, self._outputs = prepared.inputs, prepared.outputs
        self._arguments = Arguments(self.name, prepared.inputs, prepared.guards)
        self._explanation = prepared.explanation
        self._pool = pool
        self._gang = gang
        self._weights = prepared.weights
        self._executor = Executor(prepared.segments, gang, self._weights, self.name)
        self._direct = Direct.of(self._executor.single, self._inputs, self._outputs)
        self._fallbacks = prepared.fallbacks
        if self._fallbacks:
            from engine.runtime.blas import limit_blas_threads

            # numpy's products must not compete with the gang.
            limit_blas_threads(1)
        self._runs = 0
        self._closed = False

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name for arrays by name; `outputs` picks some, None gives all.

        The GIL is released while kernels run. Raises InputError for arrays that do not fit the
        model, RunError where the model itself fails on them.
        """
        if outputs is not None:
            self._check(outputs)
        arrays, sizes = self._arguments.accept(inputs)
        self._runs += 1
        direct = self._direct
        if direct is not None:
            return direct.named(direct.runner.run(sizes, direct.reads(arrays)), outputs)
        return self._interpret(arrays, sizes, outputs)

    async def run_async(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `run`, awaiting completion on the running asyncio loop through an eventfd.

        A model with several segments runs in a worker thread instead.
        """
        direct = self._direct
        if direct is None:
            import asyncio

            return await asyncio.to_thread(self.run, inputs, outputs)
        if outputs is not None:
            self._check(outputs)
        arrays, sizes = self._arguments.accept(inputs)
        self._runs += 1
        results = await direct.runner.run_async(sizes, direct.reads(arrays))
        return direct.named(results, outputs)

    def _check(self, outputs: Sequence[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for name in outputs:
            if name not in known:
                raise InputError(
                    f"{self.name}: there is no output {name!r}; outputs are {', '.join(known)}"
                )

    def _interpret(
        self, arrays: list[Any], known: Mapping[str, int], outputs: Sequence[str] | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run segment by segment."""
        if self._closed:
            raise RunError(f"{self.name} was closed; load it again")
        values: Values = {id(v): array for v, array in zip(self._inputs, arrays, strict=True)}
        sizes = dict(known)
        self._executor.run(values, sizes)
        return self._leave(values, sizes, outputs)

    def _leave(
        self, values: Values, sizes: Mapping[str, int], outputs: Sequence[str] | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        given = {id(values[id(v)]) for v in self._inputs if id(v) in values}
        results: dict[str, np.ndarray[Any, Any]] = {}
        for spec, value in zip(self.outputs, self._outputs, strict=True):
            if outputs is None or spec.name in outputs:
                array = content(value, values, sizes)
                foreign = id(array) in given or array is value.data
                results[spec.name] = array.copy() if foreign and array is not None else array
        return results

    def explain(self) -> Explanation:
        """What became of the model: passes, kernels, fallbacks and why, packed bytes."""
        return self._explanation

    def stats(self) -> dict[str, int | float]:
        """Counters: runs, binds, kernels compiled, packed bytes, code store hits and misses."""
        runners = self._executor.runners()
        store = self._pool.compiler.store
        return {
            "runs": self._runs,
            "binds": sum(runner.misses for runner in runners),
            "bind_hits": sum(runner.hits for runner in runners),
            "bind_evictions": sum(runner.evictions for runner in runners),
            "bound_bytes": sum(runner.bound_bytes for runner in runners),
            "native_segments": len(runners),
            "fallback_segments": self._fallbacks,
            "weight_bytes": self._weights.size,
            "threads": self._gang.threads,
            "kernels_compiled": self._pool.compiler.compiled,
            "compile_seconds": self._pool.compiler.seconds,
            "code_hits": store.hits,
            "code_misses": store.misses,
            "code_evictions": store.evictions,
            "plan_hits": self._pool.plans.hits,
            "plan_misses": self._pool.plans.misses,
            "plan_evictions": self._pool.plans.evictions,
        }

    def close(self) -> None:
        """Release programs and weights once the runs in flight have ended."""
        self._closed = True
        self._direct = None
        self._weights = WeightMemory(0)
        self._executor = Executor([], self._gang, self._weights, self.name)


def load(
    source: str | Path | bytes,
    threads: int | None = None,
    *,
    isa: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Report | None = None,
    winograd: bool = True,
) -> Session:
    """Load an ONNX model from a file or its bytes.

    `threads` is the number of threads a run may use (None: what affinity and control groups allow),
    `isa` masks CPU features (``baseline``, ``avx2``, ``avx512``; None: the strongest here),
    `cache_dir` keeps compiled code and prepared models (None: ``PACKHORSE_CACHE_DIR``, else the
    user's cache folder), `progress` is called as loading proceeds, `winograd` admits minimal
    filtering for 3x3 convolutions, which rounds differently. Raises ModelError for a model that
    cannot be run and CompileError where code cannot be generated.
    """

    def report(stage: str, done: int = 0, total: int = 1) -> None:
        if progress is not None:
            progress(Progress(stage, done, total))

    report("reading")
    pool = Pool.of(isa, Path(cache_dir) if cache_dir is not None else None)
    compiler, count = pool.compiler, usable(threads)
    key = pool.plans.key(source, compiler.target, count, winograd)
    prepared = pool.plans.get(key) if key is not None else None
    if prepared is None:
        # Reading and planning are large imports, which a model from the store does without.
        from engine.preparation import prepare, trim

        # Where nothing is compiled yet, the compiling processes start meanwhile.
        starting = threading.Thread(target=pool.start)
        starting.start()
        try:
            prepared = prepare(source, compiler.target, count, report, winograd)
        finally:
            starting.join()
        if key is not None:
            named = isinstance(source, str | Path)
            title = "/".join(Path(str(source)).absolute().parts[-3:]) if named else ""
            pool.plans.put(key, prepared, title)
        trim()
    elif isinstance(source, str | Path):
        prepared = renamed(prepared, Path(source).stem)
    programs = prepared.programs()
    addresses = compiler.functions(
        (spec for program in programs for spec in program.specs()),
        lambda done, total: report("compiling", done, total),
    )
    for program in programs:
        program.link(addresses)
    session = Session(prepared, pool, pool.gang(count))
    compiler.release()
    report("ready", 1, 1)
    return session

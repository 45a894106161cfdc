"""Sessions: a loaded model, ready to run at any shape."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from engine.bound_call import BoundCall
from engine.direct import Direct
from engine.errors import InputError, ModelError, RunError
from engine.execution import Executor, Values, content
from engine.explanation import Explanation
from engine.plan.prepared import Prepared
from engine.plan.store import renamed
from engine.plan.weights import WeightMemory
from engine.pool import Pool, link
from engine.ragged import Ragged, Sequences
from engine.runtime.gang import Gang
from engine.slices import Slices
from engine.specification import Arguments, TensorSpec, specify
from engine.throughput import Rows
from engine.update import Original


class _State:
    """What a session runs: programs and weights that belong together. Never changed, only swapped,
    so that a run that began on one state ends on it."""

    def __init__(self, prepared: Prepared, gang: Gang) -> None:
        self.closed = False
        self.inputs, self.outputs = prepared.inputs, prepared.outputs
        self.arguments = Arguments(
            prepared.name, prepared.inputs, prepared.guards, prepared.measures
        )
        self.explanation = prepared.explanation
        self.weights = prepared.weights
        self.executor = Executor(
            prepared.segments, gang, self.weights, prepared.name, self.arguments.open_guards
        )
        measured = bool(prepared.measures)
        self.direct = Direct.of(
            self.executor.single, self.inputs, self.outputs, self.arguments, measured
        )
        if self.direct is not None and prepared.batching[0] and self.inputs[0].shape:
            symbol = str(self.inputs[0].shape[0])
            self.direct.runner.slice(Slices(symbol, self.weights.size))
        self.ragged: Ragged | None = None
        self.ragged_reason = ""
        if isinstance(prepared.ragged, str):
            self.ragged_reason = prepared.ragged
        elif self.direct is not None:
            self.ragged = Ragged(prepared.ragged, self.direct.runner)
            self.ragged_reason = prepared.ragged.summary
        self.fallbacks = prepared.fallbacks
        self.name = prepared.name

    def emptied(self, gang: Gang) -> _State:
        """The same without programs and weights."""
        state = copy(self)
        state.closed = True
        state.direct = None
        state.ragged = None
        state.weights = WeightMemory(0)
        state.executor = Executor([], gang, state.weights, self.name)
        return state


class Session:
    """A loaded model. Thread-safe; made by `load`."""

    def __init__(
        self,
        prepared: Prepared,
        pool: Pool,
        gang: Gang,
        original: Original | None = None,
        workers: int = 1,
    ) -> None:
        self.name = prepared.name
        self.inputs: tuple[TensorSpec, ...] = tuple(map(specify, prepared.inputs))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(specify, prepared.outputs))
        self.batch_axis, self.batch_reason = prepared.batching
        self._pool = pool
        self._gang = gang
        self._state = _State(prepared, gang)
        self._original = original
        self._packs = Counter(prepared.packed)
        self._updating = threading.Lock()
        self._rows = Rows(workers) if workers > 1 else None
        if self._state.fallbacks:
            from engine.runtime.blas import limit_blas_threads

            # numpy's products must not compete with the gang.
            limit_blas_threads(1)
        self._runs = 0
        self._refined = False

    def run(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name for arrays by name; `outputs` picks some, None gives all.

        The GIL is released while kernels run. Raises InputError for arrays that do not fit the
        model, RunError where the model itself fails on them.
        """
        state = self._state
        direct = state.direct
        if outputs is not None:
            self._check(outputs)
        elif direct is not None and self._rows is None:
            results = direct.quick(inputs)
            if results is not None:
                self._runs += 1
                return results
        arrays, sizes = state.arguments.accept(inputs)
        self._runs += 1
        if direct is not None:
            found = None
            if self._rows is not None and self.batch_axis:
                found = self._rows.run(direct, arrays, sizes)
            return direct.named(found or direct.run(arrays, sizes), outputs)
        return self._interpret(state, arrays, sizes, outputs)

    @property
    def ragged(self) -> bool:
        """Whether `run_ragged` runs requests of different lengths together."""
        return self._state.ragged is not None

    @property
    def ragged_axes(self) -> tuple[str, str] | None:
        """Names of the batch and of the length in the inputs' shapes, None unless `ragged`."""
        ragged = self._state.ragged
        return None if ragged is None else (ragged.program.batch, ragged.program.length)

    @property
    def ragged_reason(self) -> str:
        """What of the model runs once for all sequences, or why nothing does."""
        return self._state.ragged_reason

    def run_ragged(
        self, feeds: Sequence[Mapping[str, Any]], outputs: Sequence[str] | None = None
    ) -> list[dict[str, np.ndarray[Any, Any]]]:
        """Outputs by name for each of several requests, whose sequences may differ in length.

        Every feed is what `run` takes, of shape [batch, length, ...] with a batch and a length of
        its own, and every result is what `run` gives for it, byte for byte. Nothing is padded: what
        the model computes token by token runs once over the tokens of all sequences, the rest
        sequence by sequence. Results are views of arrays that all requests share. Where `ragged` is
        false the requests run one after the other; `ragged_reason` says why. Raises InputError that
        numbers the feed which does not fit the model, RunError where the model fails.
        """
        if outputs is not None:
            self._check(outputs)
        state = self._state
        ragged, direct = state.ragged, state.direct
        if ragged is None or direct is None:
            return [self.run(feed, outputs) for feed in feeds]
        program = ragged.program
        requests, empty = [], {}
        for number, feed in enumerate(feeds):
            try:
                arrays, sizes = state.arguments.accept(feed)
            except InputError as error:
                raise InputError(f"{error} (request {number} of {len(feeds)})") from error
            rows = sizes[program.batch]
            if rows:
                requests.append(Sequences(direct.reads(arrays), rows, sizes[program.length]))
            else:
                empty[number] = self.run(feed, outputs)
        self._runs += 1
        results = ragged.run(requests) if requests else []
        found = iter([direct.named(result, outputs) for result in results])
        return [empty[n] if n in empty else next(found) for n in range(len(feeds))]

    async def run_ragged_async(
        self, feeds: Sequence[Mapping[str, Any]], outputs: Sequence[str] | None = None
    ) -> list[dict[str, np.ndarray[Any, Any]]]:
        """As `run_ragged`, in a worker thread, so that the running asyncio loop stays free."""
        import asyncio

        return await asyncio.to_thread(self.run_ragged, feeds, outputs)

    async def run_async(
        self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `run`, awaiting completion on the running asyncio loop through an eventfd.

        A model with several segments, or with `throughput`, runs in a worker thread instead.
        """
        state = self._state
        direct = state.direct
        if direct is None or self._rows is not None:
            import asyncio

            return await asyncio.to_thread(self.run, inputs, outputs)
        if outputs is not None:
            self._check(outputs)
        arrays, sizes = state.arguments.accept(inputs)
        self._runs += 1
        results = await direct.runner.run_async(sizes, direct.reads(arrays))
        return direct.named(results, outputs)

    def bind(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        outputs: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> BoundCall:
        """A call on fixed arrays: it reads `inputs` where they lie and writes `outputs` in place.

        Arrays for outputs that are not given are made here. Raises InputError for arrays that do
        not fit the model or are not C-contiguous.
        """
        return BoundCall(self, inputs, outputs or {})

    def _check(self, outputs: Sequence[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for name in outputs:
            if name not in known:
                raise InputError(
                    f"{self.name}: there is no output {name!r}; outputs are {', '.join(known)}"
                )

    def _interpret(
        self,
        state: _State,
        arrays: list[Any],
        known: Mapping[str, int],
        outputs: Sequence[str] | None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run segment by segment."""
        if state.closed:
            raise RunError(f"{self.name} was closed; load it again")
        values: Values = {id(v): array for v, array in zip(state.inputs, arrays, strict=True)}
        sizes = dict(known)
        state.executor.run(values, sizes)
        given = {id(values[id(v)]) for v in state.inputs if id(v) in values}
        results: dict[str, np.ndarray[Any, Any]] = {}
        for spec, value in zip(self.outputs, state.outputs, strict=True):
            if outputs is None or spec.name in outputs:
                array = content(value, values, sizes)
                foreign = id(array) in given or array is value.data
                results[spec.name] = array.copy() if foreign and array is not None else array
        return results

    def explain(self) -> Explanation:
        """What became of the model: passes, kernels, fallbacks and why, packed bytes."""
        return self._state.explanation

    def update_weights(self, changes: Mapping[str, Any]) -> None:
        """Give weights other values, by the names that the model's file has for them.

        What depends on a changed weight is packed again, once, and nothing else; then weights and
        programs are swapped together. A run that has begun ends on the old weights, one that
        begins later runs on the new ones. An update that fails changes nothing. Raises InputError
        for an unknown name or an array of another data type or shape, ModelError where the model
        cannot run with these values, or its file has changed since.
        """
        with self._updating:
            state = self._state
            if state.closed:
                raise RunError(f"{self.name} was closed; load it again")
            if self._original is None:
                raise ModelError(f"{self.name}: this session was not made by engine.load")
            prepared, renewed = self._original.renew(changes, state.weights)
            prepared = renamed(prepared, self.name)
            if _interface(prepared) != (self.inputs, self.outputs, self.batch_axis):
                raise InputError(
                    f"{self.name}: {', '.join(changes)} decide the shapes of the model's inputs or "
                    "outputs; load the changed model instead"
                )
            link(prepared, self._pool.compiler)
            self._original.commit(renewed)
            self._packs.update(prepared.packed)
            self._state = _State(prepared, self._gang)
            if self._refined:
                self.refine()

    @property
    def precision(self) -> str:
        """In which type products multiply; where that is not what was asked for, why."""
        return self._state.explanation.precision

    @property
    def packs_total(self) -> dict[str, int]:
        """How often each weight was packed, by name: 1 after loading, and 1 for each update that
        changed what it is made of."""
        return dict(self._packs)

    def stats(self) -> dict[str, int | float]:
        """Counters: runs, binds, kernels compiled, packed bytes, code store hits and misses."""
        state = self._state
        runners = state.executor.runners()
        store = self._pool.compiler.store
        return {
            "runs": self._runs,
            "binds": sum(runner.misses for runner in runners),
            "bind_hits": sum(runner.hits for runner in runners),
            "bind_evictions": sum(runner.evictions for runner in runners),
            "ragged_runs": state.ragged.binds if state.ragged is not None else 0,
            "bound_bytes": sum(runner.bound_bytes for runner in runners),
            "native_segments": len(runners),
            "fallback_segments": state.fallbacks,
            "weight_bytes": state.weights.size,
            "packs_total": self._packs.total(),
            "threads": self._gang.threads if self._rows is None else self._rows.workers,
            "kernels_compiled": self._pool.compiler.compiled,
            "compile_seconds": self._pool.compiler.seconds,
            "code_hits": store.hits,
            "code_misses": store.misses,
            "code_evictions": store.evictions,
            "plan_hits": self._pool.plans.hits,
            "plan_misses": self._pool.plans.misses,
            "plan_evictions": self._pool.plans.evictions,
            "schedules_measured": self._pool.refiner.measured if self._refined else 0,
        }

    def refine(self) -> None:
        """Let schedules be measured in idle time, now and after updates of weights."""
        self._refined = True
        for runner in self._state.executor.runners():
            self._pool.refiner.add(runner)

    def close(self) -> None:
        """Release programs and weights once the runs in flight have ended."""
        with self._updating:
            self._state = self._state.emptied(self._gang)
            if self._rows is not None:
                self._rows.close()


def _interface(prepared: Prepared) -> tuple[Any, ...]:
    """What callers see of a model."""
    inputs, outputs = (tuple(map(specify, v)) for v in (prepared.inputs, prepared.outputs))
    return inputs, outputs, prepared.batching[0]

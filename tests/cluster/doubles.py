"""Sessions for tests: a reference implementation, and a wrapper that records and holds up runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.reference import ReferenceEvaluator

from cluster.precision import PrecisionChoice
from cluster.session import Loader, LoadProgress, RaggedSession, Session, Tensor, Tensors
from engine.errors import InputError, ModelError, RunError


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]


class ReferenceSession:
    """Runs a model on the reference evaluator of the onnx package."""

    def __init__(self, path: Path) -> None:
        try:
            model = onnx.load(path)
            onnx.checker.check_model(model)
        except (DecodeError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{path}: {error}") from error
        self.inputs = tuple(_spec(value) for value in model.graph.input)
        self.outputs = tuple(_spec(value) for value in model.graph.output)
        first = {spec.shape[0] if spec.shape else None for spec in (*self.inputs, *self.outputs)}
        mixing = any(prop.key == "mixes_rows" for prop in model.metadata_props)
        self.batch_axis = len(first) == 1 and isinstance(next(iter(first)), str) and not mixing
        self.batch_reason = "a double's guess"
        ragged = any(prop.key == "ragged" for prop in model.metadata_props)
        self.ragged_axes = ("N", "T") if ragged else None
        self._evaluator = ReferenceEvaluator(model)

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        names = [spec.name for spec in self.outputs]
        try:
            results = self._evaluator.run(names, dict(inputs))
        except IndexError as error:
            raise RunError(f"node 'lookup': {error}") from error
        except ValueError as error:
            raise InputError(str(error)) from error
        found = dict(zip(names, results, strict=True))
        return {name: np.asarray(found[name]) for name in (outputs or names)}

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        return await asyncio.to_thread(self.run, inputs, outputs)

    async def run_ragged_async(
        self, feeds: Sequence[Mapping[str, Tensor]], outputs: Sequence[str] | None = None
    ) -> list[Tensors]:
        return [await self.run_async(feed, outputs) for feed in feeds]

    def stats(self) -> dict[str, int | float]:
        return {}

    def close(self) -> None:
        pass


def load_reference(
    path: Path, *, threads: int | None, progress: LoadProgress, precision: PrecisionChoice
) -> ReferenceSession:
    progress("reading", 1, 1)
    return ReferenceSession(path)


class HeldSession:
    """Any session; `runs` has the first input's shape of every run that succeeded, `ragged_runs`
    those of every request of a ragged one."""

    def __init__(self, session: Session, gate: threading.Event) -> None:
        self._session = session
        self._gate = gate
        self.inputs = session.inputs
        self.outputs = session.outputs
        self.batch_axis = session.batch_axis
        self.batch_reason = session.batch_reason
        self.ragged_axes = session.ragged_axes if isinstance(session, RaggedSession) else None
        self.ragged_runs: list[list[tuple[int, ...]]] = []
        self.runs: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        assert not self.closed
        results = self._session.run(inputs, outputs)
        self._record(inputs)
        return results

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        if not self._gate.is_set():
            await asyncio.to_thread(self._gate.wait, 20)
        assert not self.closed
        results = await self._session.run_async(inputs, outputs)
        self._record(inputs)
        return results

    async def run_ragged_async(
        self, feeds: Sequence[Mapping[str, Tensor]], outputs: Sequence[str] | None = None
    ) -> list[Tensors]:
        assert isinstance(self._session, RaggedSession)
        if not self._gate.is_set():
            await asyncio.to_thread(self._gate.wait, 20)
        results = await self._session.run_ragged_async(feeds, outputs)
        self.ragged_runs.append([next(iter(feed.values())).shape for feed in feeds])
        return results

    def stats(self) -> Mapping[str, int | float]:
        return self._session.stats()

    def close(self) -> None:
        self.closed = True
        self._session.close()

    def _record(self, inputs: Mapping[str, Tensor]) -> None:
        self.runs.append(next(iter(inputs.values())).shape)


class HeldLoader:
    """Loads sessions, by default reference ones; `hold` stops every run until `release`."""

    def __init__(self, load: Loader = load_reference) -> None:
        self._load = load
        self.gate = threading.Event()
        self.gate.set()
        self.sessions: list[HeldSession] = []
        self.precisions: list[PrecisionChoice] = []

    def __call__(
        self, path: Path, *, threads: int | None, progress: LoadProgress, precision: PrecisionChoice
    ) -> HeldSession:
        self.precisions.append(precision)
        made = self._load(path, threads=threads, progress=progress, precision=precision)
        session = HeldSession(made, self.gate)
        self.sessions.append(session)
        return session

    def hold(self) -> None:
        self.gate.clear()

    def release(self) -> None:
        self.gate.set()


def _spec(value: onnx.ValueInfoProto) -> Spec:
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Spec(value.name, np.dtype(dtype), shape)

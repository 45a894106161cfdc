"""The in-process channel: gateway and engine share one process, nothing is copied or sent.

One gang of threads serves all sessions of the process, so the number of batches in flight is
limited over all models together, by `depth`. With a depth of 1 everything that arrives while a
batch runs joins the next one; 2 hides the gap between two batches, at the price of smaller ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

import engine
from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.status import WorkerStatus
from cluster.containers import with_tensors
from cluster.description import ModelDescription
from cluster.errors import ChannelError, DeadlineError, LoadError, ModelUnavailableError
from cluster.precision import UNSPECIFIED, PrecisionChoice
from cluster.ragged import flatten
from cluster.session import Loader, LoadProgress, RaggedSession, Session, Tensor, Tensors
from engine.allocator import keep_little
from engine.errors import EngineError

logger = logging.getLogger("packhorse.cluster")


class EngineLoader:
    """Loads models with the engine, masked to `isa`, keeping compiled code in `cache_dir`.

    With `refine`, schedules are measured while the engine is idle. `precision` is for models that
    name none.
    """

    def __init__(
        self,
        isa: Literal["baseline", "avx2", "avx512"] | None = None,
        cache_dir: Path | None = None,
        refine: bool = False,
        precision: str | None = None,
    ) -> None:
        self._precision = precision
        self._isa = isa
        self._cache_dir = cache_dir
        self._refine = refine

    def __call__(
        self,
        path: Path,
        *,
        threads: int | None,
        progress: LoadProgress,
        precision: PrecisionChoice = UNSPECIFIED,
    ) -> Session:
        """Load a model; raises `engine.errors.EngineError`.

        Processes that load models here serve requests of any shape, so freed memory is not kept.
        """
        keep_little()
        session = engine.load(
            path,
            threads,
            isa=self._isa,
            cache_dir=self._cache_dir,
            progress=lambda step: progress(step.stage, step.done, step.total),
            refine=self._refine,
            precision=precision.over(self._precision),
        )
        if session.precision != "fp32":
            logger.warning("%s: %s", path, session.precision)
        return with_tensors(session)


class _Resident:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.description = ModelDescription.of(session)
        self.running = 0
        self.quiet = asyncio.Event()
        self.quiet.set()


class InProcessChannel:
    """Runs batches on sessions of this process."""

    def __init__(self, loader: Loader | None = None, *, depth: int = 1) -> None:
        """Make sessions with `loader`, by default the engine; run `depth` batches at once."""
        self._loader = loader if loader is not None else EngineLoader()
        self._depth = depth
        self._running = 0
        self._closed = False
        self._models: dict[ModelKey, _Resident] = {}
        self._listeners: list[Callable[[], None]] = []
        # One model compiles at a time: compiling is parallel within itself.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="packhorse-load")

    async def load(
        self, key: ModelKey, source: ModelSource, progress: LoadProgress | None = None
    ) -> ModelDescription:
        """Load and warm in a thread of its own; the event loop and other models keep running."""
        if self._closed:
            raise ChannelError("the channel is closed")
        abandoned = threading.Event()

        def report(stage: str, done: int, total: int) -> None:
            if abandoned.is_set():
                raise ChannelError("the load was abandoned")
            if progress is not None:
                progress(stage, done, total)

        work = self._loading.submit(self._load, key, source, report)
        try:
            session = await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            # A compilation cannot be interrupted from outside; it ends at its next report.
            abandoned.set()
            work.add_done_callback(_close_unwanted)
            raise
        resident = self._models[key] = _Resident(session)
        return resident.description

    def _load(self, key: ModelKey, source: ModelSource, progress: LoadProgress) -> Session:
        where = f"model '{key.name}' version {key.version}"
        try:
            session = self._loader(
                source.path,
                threads=source.threads,
                progress=progress,
                precision=source.precision,
            )
        except ChannelError:
            raise
        except (EngineError, OSError) as error:
            raise LoadError(f"{where}: {error}") from error
        except Exception as error:
            logger.exception("loading %s failed", where)
            raise LoadError(f"{where}: {type(error).__name__}: {error}") from error
        try:
            _warm(session, source.warmup, where, progress)
        except BaseException:
            session.close()
            raise
        return session

    async def unload(self, key: ModelKey) -> None:
        """Take the model out of service, wait for its running batches, close its session."""
        resident = self._models.pop(key, None)
        if resident is not None:
            await resident.quiet.wait()
            await asyncio.get_running_loop().run_in_executor(None, resident.session.close)

    def describe(self, key: ModelKey) -> ModelDescription:
        """What a loaded model takes and gives."""
        return self._resident(key).description

    def stats(self, key: ModelKey) -> Mapping[str, int | float]:
        """Counters of the model's session."""
        resident = self._models.get(key)
        return resident.session.stats() if resident is not None else {}

    def workers(self) -> Sequence[WorkerStatus]:
        """None: the sessions are in this process."""
        return ()

    def counters(self) -> Mapping[str, int]:
        """Nothing: what is counted are losses of workers."""
        return {}

    def idle(self, key: ModelKey) -> bool:
        """Whether another batch may start; the same for every model."""
        return self._running < self._depth

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every finished batch."""
        self._listeners.append(callback)

    def buffer(self, size: int, aligned: int = 0) -> None:
        """Nothing is copied in one process, whatever a request lies in."""

    def submit(self, batch: Batch) -> Future[Tensors]:
        """Start a batch on the model's session."""
        resident = self._resident(batch.key)
        self._running += 1
        resident.running += 1
        resident.quiet.clear()
        work = asyncio.ensure_future(self._run(resident, batch))
        work.add_done_callback(lambda _: self._finished(resident))
        answer: Future[Tensors] = asyncio.get_running_loop().create_future()
        work.add_done_callback(partial(_hand_over, answer))
        return answer

    async def _run(self, resident: _Resident, batch: Batch) -> Tensors:
        if time.monotonic() >= batch.deadline:
            raise DeadlineError(f"model '{batch.key.name}': the deadline passed before the run")
        session = resident.session
        if batch.ragged and isinstance(session, RaggedSession):
            return flatten(await session.run_ragged_async(batch.parts, batch.outputs))
        return await session.run_async(batch.gather(), batch.outputs)

    def _finished(self, resident: _Resident) -> None:
        self._running -= 1
        resident.running -= 1
        if resident.running == 0:
            resident.quiet.set()
        for listener in self._listeners:
            listener()

    async def close(self) -> None:
        """Finish running batches and close every session."""
        self._closed = True
        for key in list(self._models):
            await self.unload(key)
        self._loading.shutdown(wait=False)

    def _resident(self, key: ModelKey) -> _Resident:
        resident = self._models.get(key)
        if resident is None:
            raise ModelUnavailableError(f"model '{key.name}' version {key.version} is not loaded")
        return resident


def _hand_over(answer: Future[Tensors], work: Future[Tensors]) -> None:
    """Pass the result on, unless nobody waits any more; always fetch the error of `work`."""
    error = ChannelError("the run was cancelled") if work.cancelled() else work.exception()
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(work.result())


def _close_unwanted(work: concurrent.futures.Future[Session]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()


def _warm(
    session: Session,
    shapes: Sequence[Mapping[str, Sequence[int]]],
    where: str,
    progress: LoadProgress,
) -> None:
    """Run each warm-up once with zeros; a warm-up that was asked for and fails, fails the load.

    Without one, a model whose only symbolic dimension is its batch is run at batch 1; a model that
    rejects zeros is none the worse for it.
    """
    for index, sizes in enumerate(shapes):
        progress("warming", index, len(shapes))
        try:
            session.run(_zeros(session, sizes))
        except (EngineError, ValueError, MemoryError) as error:
            raise LoadError(f"{where}: warm-up {index + 1} failed: {error}") from error
    if not shapes and all(_static_row(spec.shape) for spec in session.inputs):
        ones = {
            spec.name: [1 if isinstance(dim, str) else dim for dim in spec.shape]
            for spec in session.inputs
        }
        try:
            session.run(_zeros(session, ones))
        except EngineError as error:
            logger.info("%s: a run with zeros as warm-up failed: %s", where, error)


def _static_row(shape: Sequence[int | str]) -> bool:
    return all(isinstance(dim, int) for dim in shape[1:])


def _zeros(session: Session, sizes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    known = {spec.name for spec in session.inputs}
    if unknown := [name for name in sizes if name not in known]:
        raise ValueError(f"no input {unknown}; the inputs are {sorted(known)}")
    tensors = {}
    for spec in session.inputs:
        shape = sizes.get(spec.name)
        if shape is None:
            raise ValueError(f"no shape given for input '{spec.name}'")
        fill: object = "" if spec.dtype == np.dtype(object) else 0
        tensors[spec.name] = np.full(shape, fill, spec.dtype)
    return tensors

"""The channel: the one seam between who forms batches and who runs them.

A gateway hands a formed batch to a channel and gets the answer; whether the worker is a session in
the same process or an actor on another machine is the channel's business. Every implementation
passes the same test suite.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cluster.channel.status import WorkerStatus
from cluster.description import ModelDescription
from cluster.precision import UNSPECIFIED, PrecisionChoice
from cluster.session import LoadProgress, Tensor, Tensors


class ModelKey(NamedTuple):
    """One loaded incarnation of a model version; a reload gets a new generation."""

    name: str
    version: int
    generation: int


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a worker needs to load a model."""

    path: Path
    threads: int | None = None
    warmup: tuple[Mapping[str, Sequence[int]], ...] = ()
    precision: PrecisionChoice = UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that run together: their rows are concatenated along axis 0 of every input.

    The parts travel separately, so that a channel can write each row straight to where the worker
    reads it. A single part is run as it is, whatever its shape. `deadline` is on the clock of
    `time.monotonic`, in seconds; `outputs` None means all. A `ragged` batch has parts of different
    lengths (`cluster.ragged`): they run together without padding, and every output is flat, the
    elements for one part behind those for another.
    """

    key: ModelKey
    parts: Sequence[Mapping[str, Tensor]]
    outputs: tuple[str, ...] | None
    deadline: float
    ragged: bool = False

    def gather(self) -> Mapping[str, Tensor]:
        """The batch's inputs as single tensors; copies only where there are several parts."""
        if len(self.parts) == 1:
            return self.parts[0]
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


class Channel(Protocol):
    """Runs batches on workers and manages which models they hold.

    All methods belong to the thread of one event loop.
    """

    async def load(
        self, key: ModelKey, source: ModelSource, progress: LoadProgress | None = None
    ) -> ModelDescription:
        """Load and warm a model under a fresh key; raises `LoadError` and leaves no trace."""

    async def unload(self, key: ModelKey) -> None:
        """Free a model after the batches it is running; an unknown key does nothing."""

    def describe(self, key: ModelKey) -> ModelDescription:
        """What a loaded model takes and gives; raises `ModelUnavailableError`."""

    def stats(self, key: ModelKey) -> Mapping[str, int | float]:
        """Counters of the model's sessions; empty if it is not loaded."""

    def workers(self) -> Sequence[WorkerStatus]:
        """The workers in other processes, and how each is; none where there is no other process."""

    def counters(self) -> Mapping[str, int]:
        """What has happened so far, by the names of `status.COUNTERS`; empty if nothing can."""

    def idle(self, key: ModelKey) -> bool:
        """Whether a worker that holds this model could start a batch now."""

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Register what to call whenever a worker may have become idle."""

    def buffer(self, size: int, aligned: int = 0) -> npt.NDArray[np.uint8] | None:
        """Memory to receive a large request into, which workers then read without a copy.

        Its byte number `aligned` lies on a cache line. None where nothing is gained by it, or no
        room is left. It is free again when the last array over it is gone.
        """

    def submit(self, batch: Batch) -> Future[Tensors]:
        """Start a batch; the slot counts as taken when this returns.

        The future gives the outputs, or raises `InputError` or `RunError` (the batch's own fault),
        `DeadlineError`, `ModelUnavailableError` or `ChannelError`. Cancelling the future gives up
        on the answer; the worker may finish the batch all the same.
        """

    async def close(self) -> None:
        """Finish running batches and free every model."""

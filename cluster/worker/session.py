"""What a worker knows of one gateway that is connected to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.channel import ModelKey, wire
from cluster.channel.arena import Arena, Mapping
from cluster.channel.failures import pack_error
from cluster.channel.sockets import Frame, PeerGoneError
from cluster.channel.tensors import discard, pack_batch
from cluster.channel.wire import Kind
from cluster.session import Tensors
from cluster.worker.listeners import Socket
from cluster.worker.models import HeldModel
from engine.errors import RunError

logger = logging.getLogger("packhorse.worker")


@dataclass(eq=False, slots=True)
class Run:
    """A batch that a gateway has sent."""

    session: Session
    id: int
    model: HeldModel
    parts: Sequence[Tensors]
    outputs: tuple[str, ...] | None
    deadline: float


class Session:
    """One connection of one gateway: its models, its batches, its shared memory."""

    def __init__(
        self,
        peer: bytes,
        gateway: str,
        socket: Socket,
        memory: tuple[Mapping, Arena] | None,
        buffers: Mapping | None,
        on_lost: Callable[[Session], None],
    ) -> None:
        """`memory` is what the gateway writes requests to, and what answers are written to.

        `buffers` is what the gateway receives large requests into.
        """
        self.peer = peer
        self.gateway = gateway
        self.requests = memory[0] if memory else None
        self.answers = memory[1] if memory else None
        self.buffers = buffers
        self.models: dict[ModelKey, HeldModel] = {}
        self.loads: dict[int, asyncio.Task[None]] = {}
        self.runs: dict[int, Run] = {}
        self.last_seen = self.last_run = time.monotonic()
        self.credits = 0
        self.open = True
        self._socket = socket
        self._on_lost = on_lost

    def send(
        self, kind: Kind, body: dict[str, Any], id: int = 0, frames: Sequence[Frame] = ()
    ) -> None:
        """Send a message; a gateway that is gone is reported and gets nothing."""
        if not self.open:
            return
        try:
            self._socket.send([self.peer, wire.pack(kind, body, id), *frames])
        except PeerGoneError:
            self._on_lost(self)

    def answer(self, run: Run, outputs: Tensors) -> None:
        """Send the outputs of a run."""
        del self.runs[run.id]
        if not self.open:
            return
        try:
            parcel = pack_batch([outputs], self.answers)
        except (TypeError, ValueError) as error:
            self._tell(run.id, RunError(f"model '{run.model.key.name}': output {error}"))
            return
        self.send(Kind.ANSWER, {"tensors": parcel.listing}, run.id, parcel.frames)
        if not self.open:
            discard(parcel, self.answers)

    def fail(self, run: Run, error: BaseException) -> None:
        """Send why a run has no outputs."""
        del self.runs[run.id]
        self._tell(run.id, error)

    def refuse(self, id: int, error: Exception) -> None:
        """Send why a run or load was not even begun."""
        self._tell(id, error)

    def free_answers(self, offsets: Sequence[int]) -> None:
        """Reuse blocks that the gateway has no more use for."""
        if self.answers is not None:
            for offset in offsets:
                self.answers.free(offset)

    def end(self) -> None:
        """Send nothing more and give the memory back; runs in progress end unheard."""
        self.open = False
        for task in self.loads.values():
            task.cancel()
        if self.answers is not None:
            self.answers.close()
            self.answers = None
        self.requests = self.buffers = None

    def _tell(self, id: int, error: BaseException) -> None:
        self.send(Kind.ERROR, pack_error(error), id)

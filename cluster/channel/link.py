"""A gateway's connection to one incarnation of a worker.

It is made once and ends once: by the worker's leaving, its death, its silence, or a refusal. What
was under way then goes back to the owner, and whatever the worker may still send is not read any
more; so an answer that comes late cannot be a second one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import zmq

from cluster.channel import ModelKey, ModelSource, arena, wire
from cluster.channel.buffers import Buffers
from cluster.channel.calls import Calls
from cluster.channel.failures import unpack_error
from cluster.channel.flight import Flight
from cluster.channel.heartbeat import Heartbeat, Pulse
from cluster.channel.security import Credentials
from cluster.channel.sockets import Frame
from cluster.channel.tensors import pack_batch, unpack
from cluster.channel.way import Way, WayEvents
from cluster.channel.wire import Kind, Message, VersionError, WireError
from cluster.description import ModelDescription
from cluster.discovery import WorkerEndpoint
from cluster.errors import ChannelError
from cluster.ragged import sizes_of
from cluster.session import LoadProgress, Tensors
from engine.errors import InputError

logger = logging.getLogger("packhorse.cluster")


class Cause(Enum):
    """Why a link ended."""

    LEFT = "left"  # it was asked to, or the worker said so, with nothing under way
    DIED = "died"  # the connection broke: the process has ended
    SILENT = "silent"  # no heartbeat: stopped, stuck or unreachable
    ABSENT = "absent"  # it was never reached
    REFUSED = "refused"  # another version, another secret, or a message it did not take


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """What every link of a gateway has in common.

    `shared_bytes` is per worker, 0 means none. Requests may lie in `buffers` already.
    """

    gateway: str
    credentials: Credentials | None = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    shared_bytes: int = 256 << 20
    connect_s: float = 2.0
    buffers: Buffers | None = None


class LinkOwner(Protocol):
    """Whom a link tells what happens."""

    def link_ready(self, link: Link) -> None:
        """The worker takes messages."""

    def link_changed(self, link: Link) -> None:
        """Its credits have changed."""

    def link_answered(self, link: Link, flight: Flight, answer: Tensors | Exception) -> None:
        """A flight has come back."""

    def link_down(self, link: Link, cause: Cause, reason: str, flights: list[Flight]) -> None:
        """The link has ended, with these flights under way."""


class Link:
    """Talks to one worker. Belongs to one event loop's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: WorkerEndpoint,
        options: LinkOptions,
        owner: LinkOwner,
    ) -> None:
        self.endpoint = endpoint
        self.models: dict[ModelKey, ModelDescription] = {}
        self.stats: dict[ModelKey, Mapping[str, int | float]] = {}
        self.credits = 0
        self.ready = False
        self.leaving = False
        self.reserved = False
        """Taken by the owner for suspects; set by the owner alone."""
        self._options = options
        self._owner = owner
        self._open = True
        self._next = 0
        self._flights: dict[int, tuple[Flight, list[int]]] = {}
        self._calls = Calls()
        self._requests: arena.Arena | None = None
        self._answers: arena.Mapping | None = None
        self._buffers: Buffers | None = None
        self._last_seen = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._way: Way | None = None
        self._pulse: Pulse | None = None
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._connect(context)
        except (ChannelError, zmq.ZMQError, OSError) as error:
            # The owner is told when it has the link in hand.
            cause = Cause.REFUSED if isinstance(error, ChannelError) else Cause.ABSENT
            reason = str(error) if isinstance(error, ChannelError) else f"{self}: {error}"
            self._loop.call_soon(self._down, cause, reason)

    def __repr__(self) -> str:
        return f"worker '{self.endpoint.worker}' ({self.endpoint.incarnation})"

    @property
    def outstanding(self) -> int:
        """Flights that the worker has."""
        return len(self._flights)

    @property
    def shared(self) -> bool:
        """Whether large tensors go through shared memory."""
        return self._requests is not None and self.ready

    @property
    def reads_buffers(self) -> bool:
        """Whether the worker has mapped what large requests are received into."""
        return self._buffers is not None

    def takes(self, key: ModelKey) -> bool:
        """Whether a batch of this model may be sent now."""
        return (
            self.ready
            and not self.leaving
            and len(self._flights) < self.credits
            and key in self.models
        )

    def run(self, flight: Flight) -> None:
        """Send a batch; raises `InputError` if it has no form on the wire."""
        batch = flight.batch
        try:
            parts = batch.parts
            if batch.ragged:
                parts = [{name: a.reshape(-1) for name, a in part.items()} for part in parts]
            parcel = pack_batch(parts, self._requests, self._buffers)
        except (TypeError, ValueError) as error:
            raise InputError(f"model '{batch.key.name}': {error}") from None
        self._next += 1
        flight.id = self._next
        flight.link = self
        self._flights[flight.id] = (flight, parcel.blocks)
        body = {
            "key": list(batch.key),
            "outputs": batch.outputs,
            "tensors": parcel.listing,
            "released": self._released(),
        }
        description = self.models[batch.key]
        if batch.ragged and description.ragged is not None:
            axes, inputs = description.ragged, description.inputs
            body["sizes"] = [sizes_of(axes, inputs, part) for part in batch.parts]
        left = batch.deadline - time.monotonic()
        self._send(Kind.RUN, body, flight.id, left, parcel.frames)

    def cancel(self, flight: Flight) -> None:
        """Give up on a flight; it counts until the worker has answered."""
        if flight.id in self._flights:
            self._send(Kind.CANCEL, {}, flight.id)

    async def load(
        self, key: ModelKey, source: ModelSource, progress: LoadProgress | None
    ) -> ModelDescription:
        """Load a model; raises `LoadError`, or `ChannelError` if the link ends."""
        if not self._open:
            raise ChannelError(f"{self} has gone")
        self._next += 1
        number = self._next
        body = {
            "key": list(key),
            "path": str(source.path),
            "threads": source.threads,
            "precision": source.precision.body(),
            "warmup": [
                {name: list(shape) for name, shape in sizes.items()} for sizes in source.warmup
            ],
        }
        self._send(Kind.LOAD, body, number)
        try:
            description = await self._calls.load(number, progress)
        except asyncio.CancelledError:
            self._send(Kind.CANCEL, {}, number)
            # It may have been loaded in the same moment.
            self._send(Kind.UNLOAD, {"key": list(key)}, 0)
            raise
        self.models[key] = description
        return description

    async def unload(self, key: ModelKey) -> None:
        """Free a model; returns also if the link ends meanwhile."""
        if self.models.pop(key, None) is None or not self._open:
            return
        self.stats.pop(key, None)
        self._next += 1
        self._send(Kind.UNLOAD, {"key": list(key)}, self._next)
        await self._calls.unload(self._next)

    async def isolate(self) -> None:
        """Wait until nothing but our batches runs on the worker, and keep it so.

        Raises `ChannelError` if the link ends.
        """
        if not self._open:
            raise ChannelError(f"{self} has gone")
        self._send(Kind.ISOLATE, {})
        await self._calls.isolation()

    def resume(self) -> None:
        """End what `isolate` began."""
        self._send(Kind.RESUME, {})

    def retire(self) -> None:
        """Send no more batches, and end once everything is answered."""
        self.leaving = True
        if not self._flights:
            self.close()

    def close(self) -> None:
        """End at once."""
        if self._open:
            self._send(Kind.LEAVING, {})
            self._down(Cause.LEFT, "the gateway has closed the connection")

    def _connect(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        options = self._options
        self._way = Way(
            context,
            self.endpoint,
            options.credentials,
            WayEvents(self._receive, self._disconnected, self._rejected),
        )
        offer = None
        if self._way.local and options.shared_bytes:
            try:
                self._requests = arena.Arena(options.shared_bytes)
                offer = self._requests.offer()
            except OSError as error:
                logger.warning("no shared memory for %r: %s", self, error)
        hello: dict[str, Any] = {"gateway": options.gateway, "arena": offer}
        if self._way.local and options.buffers is not None:
            hello["buffers"] = options.buffers.offer()
        self._send(Kind.HELLO, hello)
        self._timer = self._loop.call_later(
            options.connect_s, self._down, Cause.ABSENT, f"no answer from {self._way.address}"
        )

    def _send(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        id: int = 0,
        left_s: float | None = None,
        frames: list[Frame] | None = None,
    ) -> None:
        if self._open and self._way is not None:
            self._way.send([wire.pack(kind, body, id, left_s), *(frames or ())])

    def _receive(self, frames: list[bytes]) -> None:
        if not self._open:
            return
        self._last_seen = time.monotonic()
        try:
            self._handle(wire.unpack(frames))
        except VersionError as error:
            self._down(Cause.REFUSED, f"{self}: {error}")
        except WireError as error:
            self._down(Cause.REFUSED, f"{self} sent what is no message: {error}")

    def _handle(self, message: Message) -> None:
        body = message.body
        match message.kind:
            case Kind.ANSWER:
                self._answered(
                    message.id,
                    lambda: unpack(body.get("tensors"), message.frames, self._answers, lend=True),
                )
            case Kind.ERROR:
                error = unpack_error(body)
                if not self._calls.failed(message.id, error):
                    self._answered(message.id, lambda: error)
            case Kind.BEAT:
                self._beaten(body)
            case Kind.PROGRESS:
                self._calls.progressed(message.id, body)
            case Kind.LOADED:
                self._calls.loaded(message.id, body)
            case Kind.UNLOADED:
                self._calls.unloaded(message.id)
            case Kind.ISOLATED:
                self._calls.isolated()
            case Kind.WELCOME:
                self._welcomed(body)
            case Kind.LEAVING:
                self.leaving = True
                self._owner.link_changed(self)
                if not self._flights:
                    self._down(Cause.LEFT, f"{self} has left")
            case Kind.REFUSED:
                self._down(Cause.REFUSED, f"{self} refuses: {wire.text(body, 'reason')}")
            case _:
                raise WireError(f"{message.kind.name} is nothing that a gateway takes")

    def _welcomed(self, body: dict[str, Any]) -> None:
        incarnation = wire.text(body, "incarnation")
        if incarnation != self.endpoint.incarnation:
            self._down(Cause.REFUSED, f"{self}: incarnation '{incarnation}' answers in its place")
            return
        if self._timer is not None:
            self._timer.cancel()
        offer = body.get("arena")
        if self._requests is not None:
            self._requests.unlink()
            if offer is None:
                self._requests.close()
                self._requests = None
        if offer is not None:
            try:
                self._answers = arena.Mapping(offer)
            except OSError as error:
                logger.warning("no shared memory for answers of %r: %s", self, error)
            self._send(Kind.BEAT, {"mapped": self._answers is not None})
        self._buffers = self._options.buffers if body.get("buffers") is True else None
        self.credits = wire.count(body, "credits", largest=1 << 20)
        self.ready = True
        self._pulse = Pulse(self._options.heartbeat, self._beat)
        self._owner.link_ready(self)

    def _beaten(self, body: dict[str, Any]) -> None:
        for entry in body.get("stats") or ():
            match entry:
                case [[str(name), int(version), int(generation)], dict(counters)]:
                    self.stats[ModelKey(name, version, generation)] = counters
                case _:
                    raise WireError("the counters of a model cannot be read")
        credits = wire.count(body, "credits", largest=1 << 20)
        if credits != self.credits:
            self.credits = credits
            self._owner.link_changed(self)

    def _answered(self, number: int, answer: Callable[[], Tensors | Exception]) -> None:
        found = self._flights.pop(number, None)
        if found is None:
            raise WireError(f"an answer to run {number}, which was never sent")
        flight, blocks = found
        if self._requests is not None:
            for offset in blocks:
                self._requests.free(offset)
        try:
            result = answer()
        except WireError as error:
            result = ChannelError(f"the answer of {self} cannot be read: {error}")
        self._owner.link_answered(self, flight, result)
        if self.leaving and not self._flights and self._open:
            self.close()

    def _beat(self, now: float) -> None:
        assert self._pulse is not None
        if self._pulse.silent(self._last_seen):
            silence = now - self._last_seen
            self._down(Cause.SILENT, f"{self} has been silent for {silence:.1f} s")
            return
        self._send(Kind.BEAT, {"released": self._released()})

    def _released(self) -> list[int]:
        """Blocks of answers that nobody here looks at any more."""
        if self._answers is None:
            return []
        released = self._answers.released
        return [released.popleft() for _ in range(len(released))]

    def _rejected(self, reason: str) -> None:
        self._down(Cause.REFUSED, f"{self} {reason}")

    def _disconnected(self) -> None:
        if self.ready and (self._flights or not self.leaving):
            self._down(Cause.DIED, f"{self} has died")
        else:
            self._down(Cause.LEFT if self.ready else Cause.ABSENT, f"{self} has gone")

    def _down(self, cause: Cause, reason: str) -> None:
        if not self._open:
            return
        self._open = self.ready = False
        if self._timer is not None:
            self._timer.cancel()
        if self._pulse is not None:
            self._pulse.stop()
        if self._way is not None:
            self._way.close()
        flights = [flight for flight, _ in self._flights.values()]
        self._flights.clear()
        # Never used again: a worker that was only stopped may still read it.
        if self._buffers is not None and self._way is not None:
            self._buffers.keep(self._way.process, [flight.batch for flight in flights])
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        self._answers = None
        self._calls.end(reason)
        self.models.clear()
        for flight in flights:
            flight.link = None
        self._owner.link_down(self, cause, reason, flights)

"""The networked channel: batches go to workers in processes of their own, on any machine.

The workers are those that a `Discovery` lists; each has a `Link`. A batch goes to the worker with
the fewest under way among those that hold its model and have granted a credit. What a lost worker
had is sent to another one, and only the first answer to come counts. Who may have killed the worker
is found out in quarantine; see `cluster.channel.quarantine`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.buffers import Buffers
from cluster.channel.flight import Flight
from cluster.channel.heartbeat import Heartbeat
from cluster.channel.link import Cause, Link, LinkOptions
from cluster.channel.quarantine import LostError, Quarantine
from cluster.channel.roster import Roster
from cluster.channel.security import Credentials
from cluster.channel.status import COUNTERS, WorkerStatus
from cluster.channel.tensors import SHARED_BYTES
from cluster.description import ModelDescription
from cluster.discovery import Discovery
from cluster.errors import (
    ChannelError,
    ClusterError,
    DeadlineError,
    LoadError,
    ModelUnavailableError,
)
from cluster.session import LoadProgress, Tensors
from engine.errors import InputError

logger = logging.getLogger("packhorse.cluster")

_LOAD_DEATHS = 2
"""Workers that may die of loading a model before it is not tried any further."""

_PATIENCE = 2
"""Workers that may fall silent over a batch before it is treated as if it had killed them."""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What can be chosen about a networked channel.

    `gateway` names this gateway for people. `secret` is for workers that are reached over tcp.
    `shared_bytes` bounds the shared memory for requests, per worker of this machine, and as much
    for what large requests are received into; 0 means none.
    A load waits for its first worker for `worker_wait_s` seconds.
    """

    gateway: str = ""
    secret: str | None = field(default=None, repr=False)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    shared_bytes: int = 256 << 20
    worker_wait_s: float = 60.0


@dataclass(eq=False, slots=True)
class _Resident:
    source: ModelSource
    description: ModelDescription
    flights: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)


class NetworkedChannel:
    """Runs batches on the workers of a fleet."""

    def __init__(self, discovery: Discovery, options: NetworkOptions | None = None) -> None:
        """Workers are looked for from the first load on; raises `ChannelError` for a bad secret."""
        options = options if options is not None else NetworkOptions()
        self._options = options
        self._buffers = _buffers(options.shared_bytes)
        link_options = LinkOptions(
            options.gateway or f"{os.uname().nodename}/{os.getpid()}",
            Credentials.of(options.secret) if options.secret else None,
            options.heartbeat,
            options.shared_bytes,
            buffers=self._buffers,
        )
        self._roster = Roster(discovery, link_options, self)
        self._models: dict[ModelKey, _Resident] = {}
        self._waiting: deque[Flight] = deque()
        self._quarantine = Quarantine(self)
        self._listeners: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._closed = False
        self._counts = dict.fromkeys(COUNTERS, 0)

    async def load(
        self, key: ModelKey, source: ModelSource, progress: LoadProgress | None = None
    ) -> ModelDescription:
        """Load on every worker that is there; those that come later follow by themselves."""
        if self._closed:
            raise ChannelError("the channel is closed")
        self._roster.start()
        where = f"model '{key.name}' version {key.version}"
        deadline = time.monotonic() + self._options.worker_wait_s
        deaths = 0
        while True:
            links = await self._first_links(where, deadline)
            results = await asyncio.gather(
                *(link.load(key, source, progress) for link in links), return_exceptions=True
            )
            found = [result for result in results if isinstance(result, ModelDescription)]
            # A worker that was lost meanwhile is no fault of the model's.
            errors = [
                result
                for result in results
                if isinstance(result, BaseException) and type(result) is not ChannelError
            ]
            if any(description != found[0] for description in found):
                errors = [LoadError(f"{where}: the workers disagree about its inputs and outputs")]
            if errors:
                await asyncio.gather(*(link.unload(key) for link in links))
                raise errors[0]
            if found:
                break
            deaths += 1
            if deaths == _LOAD_DEATHS:
                raise LoadError(f"{where}: loading it failed {deaths} times: {results[0]}")
        resident = self._models[key] = _Resident(source, found[0])
        resident.quiet.set()
        for link in self._roster.links():
            self._equip(link)
        return resident.description

    async def unload(self, key: ModelKey) -> None:
        """Take the model out of service everywhere after its batches."""
        resident = self._models.pop(key, None)
        if resident is not None:
            await resident.quiet.wait()
            await asyncio.gather(*(link.unload(key) for link in self._roster.links()))

    def describe(self, key: ModelKey) -> ModelDescription:
        """What a loaded model takes and gives."""
        return self._resident(key).description

    def stats(self, key: ModelKey) -> Mapping[str, int | float]:
        """Counters of the model's sessions, summed over the workers."""
        total: dict[str, int | float] = {}
        for link in self._roster.links():
            for name, value in link.stats.get(key, {}).items():
                total[name] = total.get(name, 0) + value
        return total

    def idle(self, key: ModelKey) -> bool:
        """Whether a worker would take a batch of this model now; what is unknown fails at once."""
        if key not in self._models:
            return True
        # Those that have waited longest go first, but only before batches of their own model.
        if any(flight.batch.key == key for flight in self._waiting):
            return False
        return self._choose(key) is not None

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every answer and whenever workers or credits change."""
        self._listeners.append(callback)

    def workers(self) -> Sequence[WorkerStatus]:
        """Every listed worker and how it is."""
        return self._roster.statuses()

    def counters(self) -> Mapping[str, int]:
        """What has happened so far, by the names of `COUNTERS`."""
        return {**self._counts, "requests_refused": self._quarantine.refused}

    def buffer(self, size: int, aligned: int = 0) -> npt.NDArray[np.uint8] | None:
        """Memory that workers of this machine read without a copy."""
        if self._buffers is None or size < SHARED_BYTES:
            return None
        if not any(link.reads_buffers for link in self._roster.links()):
            return None
        return self._buffers.lend(size, aligned)

    def submit(self, batch: Batch) -> Future[Tensors]:
        """Send a batch to a worker, or keep it until one can take it."""
        resident = self._resident(batch.key)
        flight = Flight(batch)
        left = batch.deadline - time.monotonic()
        if left <= 0:
            flight.fail(
                DeadlineError(f"model '{batch.key.name}': the deadline passed before the run")
            )
            return flight.future
        resident.flights += 1
        resident.quiet.clear()
        flight.future.add_done_callback(lambda future: self._settled(resident, flight))
        flight.timer = asyncio.get_running_loop().call_later(left, self._expire, flight)
        self._dispatch(flight)
        return flight.future

    async def close(self) -> None:
        """Wait for the answers under way, free the models, leave the workers."""
        self._closed = True
        for key in list(self._models):
            await self.unload(key)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._roster.close()
        buffers, self._buffers = self._buffers, None
        if buffers is not None:
            buffers.close()

    # What the quarantine needs.

    def reserve(self, key: ModelKey) -> Link | None:
        """A worker for suspects of this model, which gets nothing else until it is released."""
        candidates = [
            link
            for link in self._roster.links()
            if link.ready and not link.leaving and key in link.models and not link.reserved
        ]
        link = min(candidates, key=lambda link: link.outstanding, default=None)
        if link is not None:
            link.reserved = True
        return link

    def release(self, link: Link) -> None:
        """Use a reserved worker for everything again."""
        link.reserved = False
        self._advance()

    async def arrival(self, deadline: float) -> None:
        """Wait until workers have changed, or until the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._arrived.wait()

    # What the links tell.

    def roster_changed(self) -> None:
        """Workers have come or gone."""
        self._change()

    def link_ready(self, link: Link) -> None:
        """A worker answers: it gets every model."""
        logger.info("%r is connected", link)
        self._roster.reached(link)
        self._equip(link)
        self._change()

    def link_changed(self, link: Link) -> None:
        """Credits have changed."""
        self._change()

    def link_answered(self, link: Link, flight: Flight, answer: Tensors | Exception) -> None:
        """An answer: the worker is free for the next batch."""
        flight.link = None
        lacking = isinstance(answer, ModelUnavailableError) and flight.batch.key in self._models
        if lacking and not self._quarantine.owns(flight):
            # The worker has lost the model: it is loaded again, the batch goes elsewhere.
            link.models.pop(flight.batch.key, None)
            self._equip(link)
            self._again([flight])
        elif isinstance(answer, Exception):
            flight.fail(answer)
        else:
            flight.succeed(answer)
        if link.reserved:
            self._tell_arrival()
        self._advance()

    def link_down(self, link: Link, cause: Cause, reason: str, flights: list[Flight]) -> None:
        """A worker is lost: what it had goes elsewhere, or into quarantine if it died of it."""
        level = logging.INFO if cause is Cause.LEFT else logging.WARNING
        # It is tried again and again; said once is enough.
        logger.log(logging.DEBUG if reason in self._roster.troubles() else level, "%s", reason)
        self._roster.lost(link, reason)
        if cause in (Cause.DIED, Cause.SILENT):
            self._counts[f"workers_{cause.value}"] += 1
        elsewhere = []
        for flight in flights:
            flight.returns += 1
            if self._quarantine.owns(flight):
                flight.fail(LostError(reason, died=cause is Cause.DIED))
            elif not flight.wanted:
                continue
            elif cause is Cause.DIED or flight.returns > _PATIENCE:
                self._counts["batches_quarantined"] += 1
                self._quarantine.add(flight)
            else:
                self._counts["batches_replayed"] += 1
                elsewhere.append(flight)
        self._again(elsewhere)
        self._change()

    def send_alone(self, link: Link, flight: Flight) -> None:
        """Send a suspect to the worker that is reserved for it; raises `InputError`."""
        link.run(flight)

    async def _first_links(self, where: str, deadline: float) -> list[Link]:
        while not (links := self._roster.links()):
            if time.monotonic() >= deadline:
                reasons = "; ".join(self._roster.troubles())
                raise LoadError(
                    f"{where}: no worker to load it on within {self._options.worker_wait_s:g} s"
                    + (f": {reasons}" if reasons else "; start workers, or look why none is found")
                )
            await self.arrival(deadline)
        return links

    def _equip(self, link: Link) -> None:
        """Load on a worker what it does not hold yet."""
        missing = [key for key in self._models if key not in link.models]
        if missing and link.ready:
            task = asyncio.create_task(self._load_late(link, missing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load_late(self, link: Link, keys: list[ModelKey]) -> None:
        for key in keys:
            resident = self._models.get(key)
            if resident is None or key in link.models:
                continue
            try:
                description = await link.load(key, resident.source, None)
            except ClusterError as error:
                logger.warning("%r does not serve model '%s': %s", link, key.name, error)
                continue
            if key not in self._models:
                await link.unload(key)
            elif description != resident.description:
                logger.warning("%r has another model '%s' than the others", link, key.name)
                await link.unload(key)
            else:
                self._change()

    def _choose(self, key: ModelKey) -> Link | None:
        best: Link | None = None
        for link in self._roster.links():
            fewer = best is None or link.outstanding < best.outstanding
            if fewer and link.takes(key) and not link.reserved:
                best = link
        return best

    def _dispatch(self, flight: Flight) -> None:
        link = self._choose(flight.batch.key)
        if link is None:
            self._waiting.append(flight)
            return
        try:
            link.run(flight)
        except InputError as error:
            flight.fail(error)

    def _again(self, flights: list[Flight]) -> None:
        """Put flights that have waited longest in front."""
        self._waiting.extendleft(reversed(flights))

    def _advance(self) -> None:
        """Send what waits, then tell the others that there may be room."""
        for _ in range(len(self._waiting)):
            flight = self._waiting.popleft()
            if flight.wanted:
                self._dispatch(flight)
        for listener in self._listeners:
            listener()

    def _change(self) -> None:
        """Workers or credits have changed."""
        self._tell_arrival()
        self._advance()

    def _tell_arrival(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _expire(self, flight: Flight) -> None:
        flight.fail(
            DeadlineError(f"model '{flight.batch.key.name}': no answer within the deadline")
        )

    def _settled(self, resident: _Resident, flight: Flight) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        if flight.link is not None:
            # Answered by the deadline or given up: the worker need not begin it any more.
            flight.link.cancel(flight)
        resident.flights -= 1
        if not resident.flights:
            resident.quiet.set()

    def _resident(self, key: ModelKey) -> _Resident:
        resident = self._models.get(key)
        if resident is None:
            raise ModelUnavailableError(f"model '{key.name}' version {key.version} is not loaded")
        return resident


def _buffers(size: int) -> Buffers | None:
    try:
        return Buffers(size) if size else None
    except OSError as error:
        logger.warning("no shared memory to receive requests into: %s", error)
        return None

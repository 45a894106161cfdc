"""The endpoint of a worker: takes batches from gateways and answers them.

Gateways connect over a socket of this machine or over tcp. Each may have as many batches under way
as it has credits; which one runs next is decided in fair turns. A gateway that suspects one of
its requests of killing workers asks to be alone (`ISOLATE`): then nothing else is in this process
while the suspect runs, and nobody else is blamed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cluster.channel import Batch, Channel, wire
from cluster.channel.arena import Arena, Mapping, sweep
from cluster.channel.descriptions import pack_description
from cluster.channel.heartbeat import Pulse
from cluster.channel.sockets import PeerGoneError
from cluster.channel.tensors import unpack
from cluster.channel.wire import Kind, Message, WireError
from cluster.discovery import WorkerEndpoint, new_incarnation
from cluster.errors import ChannelError, DeadlineError, LoadError, ModelUnavailableError
from cluster.ragged import split
from cluster.repository import Repository
from cluster.session import Tensors
from cluster.worker.listeners import Listeners, Socket
from cluster.worker.models import HeldModel, SharedModels, source_from
from cluster.worker.options import EndpointOptions
from cluster.worker.session import Run, Session
from cluster.worker.turns import Turns
from cluster.worker.watchdog import Watchdog

logger = logging.getLogger("packhorse.worker")

_ACTIVE_S = 1.0  # a gateway that has sent nothing for so long shares its credits with the others
_STATS_EVERY = 4  # heartbeats from one report of the counters to the next


class EndpointServer:
    """Serves the models of one process to gateways. Belongs to one event loop's thread."""

    def __init__(
        self, channel: Channel, options: EndpointOptions, watchdog: Watchdog | None = None
    ) -> None:
        """Run batches on `channel`, which holds its sessions in this process.

        `watchdog` is by default one that ends the process, as `options` have it.
        """
        self.incarnation = new_incarnation()
        self.models = SharedModels(channel)
        self._options = options
        self._sessions: dict[bytes, Session] = {}
        self._turns: Turns[Run] = Turns()
        self._watchdog = watchdog or Watchdog(options.stall_s, options.limit_s)
        self._running = 0
        self._alone: Session | None = None
        self._wants_alone: deque[Session] = deque()
        self._draining = False
        self._beats = 0
        self._batches = self._failed = 0
        self._busy_s = 0.0
        self._quiet = asyncio.Event()
        self._kept: list[asyncio.TimerHandle] = []
        self._handlers: dict[Kind, Callable[[Session, Message], None]] = {
            Kind.BEAT: self._on_beat,
            Kind.RUN: self._on_run,
            Kind.CANCEL: self._on_cancel,
            Kind.LOAD: self._on_load,
            Kind.UNLOAD: self._on_unload,
            Kind.ISOLATE: self._on_isolate,
            Kind.RESUME: self._on_resume,
            Kind.LEAVING: lambda session, _: self._end(session),
        }

    async def open(self) -> WorkerEndpoint:
        """Bind the sockets; gateways may connect from here on.

        Raises `ChannelError` if there is nowhere to bind, or tcp without a secret.
        """
        sweep()
        self._loop = asyncio.get_running_loop()
        self._listeners = Listeners(self._options, self.incarnation, self._receive, self._gone)
        self._pulse = Pulse(self._options.heartbeat, self._beat)
        endpoint = self._listeners.endpoint
        logger.info("worker listens: %s", endpoint)
        return endpoint

    async def preload(self, repository: Repository, threads: int | None = None) -> list[str]:
        """Load what `repository` serves, so that gateways find it ready; returns the names.

        Raises `LoadError` or `RepositoryError`.
        """
        return await self.models.preload(repository, threads)

    @property
    def sessions(self) -> list[str]:
        """Gateways that are connected now."""
        return sorted(session.gateway for session in self._sessions.values())

    def counters(self) -> dict[str, Any]:
        """What the worker has done and is doing, for people and metrics."""
        return {
            "gateways": self.sessions,
            "running": self._running,
            "waiting": sum(len(session.runs) for session in self._sessions.values())
            - self._running,
            "batches": self._batches,
            "failed_batches": self._failed,
            "busy_seconds": round(self._busy_s, 6),
            "models": self.models.all_stats(),
        }

    async def drain(self, timeout_s: float = 30.0) -> None:
        """Tell the gateways to send nothing more, and answer what they have sent."""
        self._draining = True
        for session in self._sessions.values():
            session.send(Kind.LEAVING, {})
        try:
            await asyncio.wait_for(self._until_quiet(), timeout_s)
        except TimeoutError:
            logger.warning("worker '%s' leaves before all answers", self._options.worker)

    async def close(self) -> None:
        """Close the sockets and free the models, after the batches that run."""
        self._pulse.stop()
        for timer in self._kept:
            timer.cancel()
        for session in list(self._sessions.values()):
            self._end(session, keep_s=0)
        await self._listeners.close()
        await self.models.close()

    def _receive(self, socket: Socket, frames: list[bytes]) -> None:
        peer = frames[0]
        session = self._sessions.get(peer)
        try:
            message = wire.unpack(frames[1:])
            if message.kind is Kind.HELLO:
                self._welcome(peer, socket, message)
                return
            handler = self._handlers.get(message.kind)
            if session is None or handler is None:
                raise WireError(
                    f"{message.kind.name} is nothing that a worker takes"
                    if handler is None
                    else "the session has ended; connect again"
                )
            session.last_seen = time.monotonic()
            handler(session, message)
        except WireError as error:
            logger.warning("worker '%s' refuses a message: %s", self._options.worker, error)
            if session is not None:
                self._end(session)
            _refuse(socket, peer, str(error))

    def _welcome(self, peer: bytes, socket: Socket, message: Message) -> None:
        if peer in self._sessions:
            raise WireError("HELLO was said before")
        gateway = wire.text(message.body, "gateway", longest=256)
        if self._draining:
            _refuse(socket, peer, f"worker '{self._options.worker}' is leaving")
            return
        memory = self._memory(message.body.get("arena"))
        buffers = self._mapped(message.body.get("buffers"))
        session = Session(peer, gateway, socket, memory, buffers, self._lost)
        self._sessions[peer] = session
        session.credits = self._share()
        session.send(
            Kind.WELCOME,
            {
                "incarnation": self.incarnation,
                "credits": session.credits,
                "arena": memory[1].offer() if memory else None,
                "buffers": buffers is not None,
            },
        )
        logger.info("gateway '%s' has connected", gateway)

    def _memory(self, offer: Any) -> tuple[Mapping, Arena] | None:
        mapping = self._mapped(offer)
        if mapping is None:
            return None
        try:
            return mapping, Arena(self._options.shared_bytes)
        except OSError as error:
            logger.info("no shared memory for answers to a gateway: %s", error)
            return None

    def _mapped(self, offer: Any) -> Mapping | None:
        if offer is None or not self._options.shared_bytes:
            return None
        try:
            return Mapping(offer)
        except OSError as error:
            logger.info("no shared memory with a gateway: %s", error)
            return None

    def _on_beat(self, session: Session, message: Message) -> None:
        session.free_answers(wire.counts(message.body, "released"))
        mapped = message.body.get("mapped")
        if mapped is not None and session.answers is not None:
            session.answers.unlink()
            if mapped is False:
                session.answers.close()
                session.answers = None

    def _on_run(self, session: Session, message: Message) -> None:
        body = message.body
        session.free_answers(wire.counts(body, "released"))
        if message.id in session.runs:
            raise WireError(f"run {message.id} was sent twice")
        session.last_run = time.monotonic()
        try:
            key = wire.model_key(body)
            model = session.models.get(key)
            if model is None:
                raise ModelUnavailableError(
                    f"worker '{self._options.worker}' does not hold model '{key.name}' version "
                    f"{key.version}"
                )
            if len(session.runs) >= 2 * self._options.credits + 2:
                raise ChannelError(f"worker '{self._options.worker}' has no credit left for a run")
            inputs = unpack(body.get("tensors"), message.frames, session.requests, session.buffers)
            parts = self._parts(model, inputs, body.get("sizes"))
            outputs = wire.texts(body, "outputs")
        except (WireError, ChannelError, ModelUnavailableError) as error:
            session.refuse(message.id, error)
            return
        left = message.left_s if message.left_s is not None else 3600.0
        run = Run(session, message.id, model, parts, outputs, session.last_run + left)
        session.runs[message.id] = run
        self._turns.add(session, run)
        self._pump()

    def _parts(self, model: HeldModel, inputs: Tensors, sizes: Any) -> Sequence[Tensors]:
        """The requests of a batch where they differ in length, else its inputs."""
        if sizes is None:
            return (inputs,)
        description = self.models.describe(model)
        if description.ragged is None or not isinstance(sizes, list) or len(sizes) < 2:
            raise WireError("requests of different lengths do not run together here")
        pairs = []
        for entry in sizes:
            match entry:
                case [int(rows), int(length)] if rows >= 0 and length >= 0:
                    pairs.append((rows, length))
                case _:
                    raise WireError("the sizes of a request cannot be read")
        try:
            return split(description.ragged, description.inputs, inputs, pairs)
        except (KeyError, ValueError) as error:
            raise WireError(f"the requests of a batch cannot be told apart: {error}") from None

    def _on_cancel(self, session: Session, message: Message) -> None:
        if (loading := session.loads.get(message.id)) is not None:
            loading.cancel()
        run = session.runs.get(message.id)
        if run is not None and self._turns.remove(session, run):
            session.fail(run, ChannelError("the run was cancelled"))

    def _on_load(self, session: Session, message: Message) -> None:
        body = message.body
        key = wire.model_key(body)
        path = wire.text(body, "path", longest=4096)
        source = source_from(path, body.get("threads"), body.get("warmup"), body.get("precision"))
        if source is None or key in session.models or message.id in session.loads:
            raise WireError(f"LOAD of '{key.name}' is not valid")

        def report(stage: str, done: int, total: int) -> None:
            step = {"stage": stage, "done": done, "total": total}
            self._loop.call_soon_threadsafe(session.send, Kind.PROGRESS, step, message.id)

        async def load() -> None:
            try:
                held, description = await self.models.acquire(key, source, report)
            except (LoadError, ChannelError) as error:
                session.send(Kind.ERROR, {"error": "LoadError", "message": str(error)}, message.id)
                return
            finally:
                del session.loads[message.id]
            if not session.open or key in session.models:
                self.models.release(held)
                return
            session.models[key] = held
            session.send(Kind.LOADED, {"description": pack_description(description)}, message.id)

        session.loads[message.id] = asyncio.create_task(load())

    def _on_unload(self, session: Session, message: Message) -> None:
        held = session.models.pop(wire.model_key(message.body), None)
        freeing = self.models.release(held) if held is not None else None
        if freeing is None:
            session.send(Kind.UNLOADED, {}, message.id)
        else:
            freeing.add_done_callback(lambda _: session.send(Kind.UNLOADED, {}, message.id))

    def _on_isolate(self, session: Session, _: Message) -> None:
        if session is not self._alone and session not in self._wants_alone:
            self._wants_alone.append(session)
            self._pump()

    def _on_resume(self, session: Session, _: Message) -> None:
        if session in self._wants_alone:
            self._wants_alone.remove(session)
        if self._alone is session:
            self._alone = None
        self._pump()

    def _pump(self) -> None:
        """Start what may start now."""
        if self._alone is None and self._wants_alone and not self._running:
            self._alone = self._wants_alone.popleft()
            self._alone.send(Kind.ISOLATED, {})
        while self._running < self._options.depth:
            # Who waits to be alone waits for the runs of now, not for those that come meanwhile.
            if self._alone is None and self._wants_alone:
                return
            turn = self._turns.take(only=self._alone)
            if turn is None:
                return
            self._start(turn[1])

    def _start(self, run: Run) -> None:
        began = time.monotonic()
        if began >= run.deadline:
            error = DeadlineError(
                f"model '{run.model.key.name}': the deadline passed while the batch waited"
            )
            run.session.fail(run, error)
            return
        self._running += 1
        self._watchdog.begin(run, f"model '{run.model.key.name}'", run.deadline)
        ragged = len(run.parts) > 1
        batch = Batch(run.model.key, run.parts, run.outputs, run.deadline, ragged)
        answer = self.models.submit(run.model, batch)
        answer.add_done_callback(partial(self._finish, run, began))

    def _finish(self, run: Run, began: float, answer: asyncio.Future[Tensors]) -> None:
        self._running -= 1
        self._watchdog.end(run)
        took = time.monotonic() - began
        self._batches += 1
        self._busy_s += took
        self._turns.charge(run.session, took)
        # The next batch starts before this one's answer is packed.
        self._pump()
        error = answer.exception()
        if error is not None:
            self._failed += 1
            run.session.fail(run, error)
        else:
            run.session.answer(run, answer.result())
        if not self._running and not self._turns:
            self._quiet.set()

    def _share(self) -> int:
        """Credits of each gateway, by how many are sending now."""
        now = time.monotonic()
        active = sum(now - s.last_run < _ACTIVE_S for s in self._sessions.values())
        return max(1, -(-self._options.credits // max(active, 1)))

    def _beat(self, now: float) -> None:
        self._beats += 1
        self._watchdog.look(now)
        share = self._share()
        for session in list(self._sessions.values()):
            if self._pulse.silent(session.last_seen):
                logger.warning("gateway '%s' is silent; its session ends", session.gateway)
                self._end(session)
                continue
            session.credits = share
            body: dict[str, Any] = {"credits": share}
            if self._beats % _STATS_EVERY == 0:
                body["stats"] = [
                    [list(key), self.models.stats(held)] for key, held in session.models.items()
                ]
            session.send(Kind.BEAT, body)

    def _gone(self, peer: bytes) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            self._end(session)

    def _lost(self, session: Session) -> None:
        # Not at once: this is told in the middle of whatever was being sent.
        self._loop.call_soon(self._end, session)

    def _end(self, session: Session, keep_s: float | None = None) -> None:
        if self._sessions.get(session.peer) is not session:
            return
        del self._sessions[session.peer]
        session.end()
        for run in self._turns.leave(session):
            del session.runs[run.id]
        if session in self._wants_alone:
            self._wants_alone.remove(session)
        if self._alone is session:
            self._alone = None
        held = list(session.models.values())
        session.models.clear()
        keep_s = self._options.keep_s if keep_s is None else keep_s
        if keep_s:
            # A gateway that comes back soon finds its models still loaded.
            self._kept.append(self._loop.call_later(keep_s, self._release, held))
        else:
            self._release(held)
        logger.info("the session of gateway '%s' has ended", session.gateway)
        self._pump()

    def _release(self, held: list[HeldModel]) -> None:
        self._kept = [timer for timer in self._kept if timer.when() > self._loop.time()]
        for model in held:
            self.models.release(model)

    async def _until_quiet(self) -> None:
        while self._running or self._turns:
            self._quiet.clear()
            await self._quiet.wait()
        # What the last answers were put into is still being sent.
        await asyncio.sleep(0.05)


def _refuse(socket: Socket, peer: bytes, reason: str) -> None:
    try:
        socket.send([peer, wire.pack(Kind.REFUSED, {"reason": reason[:60_000]})])
    except PeerGoneError:
        return

"""The directory: where workers announce themselves and gateways find them.

One small server per fleet. Workers renew their entry every second and are forgotten when they stop;
gateways ask every second and are told at once when something changes. It holds nothing that its
clients would not tell it again, so it may die and start anew: gateways keep what they know, and
take a list as complete only from a directory that is old enough to have heard from everyone.
Batches do not pass through it.

Messages are JSON objects over ZeroMQ (DEALER to ROUTER), encrypted and authenticated by the fleet's
secret like the channel itself; see `cluster.channel.security`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import zmq

from cluster.channel.security import Credentials, Doorman
from cluster.channel.sockets import LoopSocket, make_socket
from cluster.discovery import Endpoints, WorkerEndpoint
from cluster.errors import FleetError

logger = logging.getLogger("packhorse.fleet")

PROTOCOL: Final = 1
RENEW_S: Final = 1.0
"""Seconds between two messages of a client."""

EXPIRE_S: Final = 4.0
"""Seconds after which a silent worker or gateway is forgotten."""

SETTLE_S: Final = 3.0
"""Age at which a directory has heard from every worker that lives."""

Record = dict[str, Any]


@dataclass(slots=True)
class _Worker:
    endpoint: WorkerEndpoint
    report: Record
    seen: float
    draining: bool = False


@dataclass(slots=True)
class _Gateway:
    report: Record
    seen: float
    peer: bytes = b""


@dataclass(slots=True)
class Register:
    """What a directory knows; pure bookkeeping, without sockets or clocks."""

    workers: dict[str, _Worker] = field(default_factory=dict)
    gateways: dict[str, _Gateway] = field(default_factory=dict)
    drained: dict[str, bool] = field(default_factory=dict)

    def announce(
        self, endpoint: WorkerEndpoint, report: Record, draining: bool, now: float
    ) -> tuple[bool, bool | None]:
        """Renew a worker's entry; returns whether the list has changed, and an order to drain.

        The worker itself keeps whether it is draining, so that a fresh directory learns of it.
        """
        order = self.drained.get(endpoint.incarnation)
        if order == draining:
            del self.drained[endpoint.incarnation]
            order = None
        before = self.workers.get(endpoint.incarnation)
        after = _Worker(endpoint, report, now, draining if order is None else order)
        self.workers[endpoint.incarnation] = after
        changed = before is None or before.endpoint != endpoint or before.draining != after.draining
        return changed, order

    def withdraw(self, incarnation: str) -> bool:
        """Forget a worker that leaves; returns whether it was known."""
        return self.workers.pop(incarnation, None) is not None

    def expire(self, now: float) -> bool:
        """Forget who has been silent for too long; returns whether that changes the list."""
        silent = [key for key, worker in self.workers.items() if now - worker.seen > EXPIRE_S]
        for key in silent:
            logger.warning("worker '%s' has fallen silent", self.workers.pop(key).endpoint.worker)
        for name in [key for key, one in self.gateways.items() if now - one.seen > EXPIRE_S]:
            del self.gateways[name]
        return bool(silent)

    def drain(self, target: str, wanted: bool) -> list[str]:
        """Order the workers called `target`, or on the node of that name, to drain or to return.

        Returns their names; raises `FleetError` if there are none.
        """
        found = [
            worker
            for worker in self.workers.values()
            if target in (worker.endpoint.worker, worker.endpoint.incarnation)
            or worker.endpoint.worker.rpartition("/")[0] == target
        ]
        if not found:
            known = ", ".join(sorted(w.endpoint.worker for w in self.workers.values())) or "none"
            raise FleetError(f"no worker or node '{target}'; workers: {known}")
        for worker in found:
            self.drained[worker.endpoint.incarnation] = wanted
            worker.draining = wanted
        return sorted(worker.endpoint.worker for worker in found)

    def listed(self) -> list[Record]:
        """Endpoints that gateways should use."""
        return [
            json.loads(worker.endpoint.to_json())
            for _, worker in sorted(self.workers.items())
            if not worker.draining
        ]

    def status(self, now: float) -> Record:
        """Everything, for people."""
        return {
            "workers": [
                {
                    **worker.report,
                    "worker": worker.endpoint.worker,
                    "incarnation": worker.endpoint.incarnation,
                    "draining": worker.draining,
                    "silent_s": round(now - worker.seen, 1),
                }
                for worker in sorted(self.workers.values(), key=lambda w: w.endpoint.worker)
            ],
            "gateways": [
                {**gateway.report, "gateway": name}
                for name, gateway in sorted(self.gateways.items())
            ],
        }


class Directory:
    """The server. Belongs to one event loop's thread."""

    def __init__(self, secret: str) -> None:
        """Serve clients that know `secret`; raises `ChannelError` if it could be guessed."""
        self.register = Register()
        self._credentials = Credentials.of(secret)
        self._began = time.monotonic()

    async def open(self, listen: str) -> str:
        """Listen on `HOST:PORT`, port 0 for any; returns the address as bound.

        Raises `FleetError` if it cannot.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._doorman = Doorman(self._context, self._credentials)
        socket = make_socket(self._context, zmq.ROUTER)
        self._credentials.serve(socket)
        try:
            socket.bind(f"tcp://{listen}")
        except zmq.ZMQError as error:
            socket.close()
            self._doorman.close()
            self._context.term()
            raise FleetError(f"the directory cannot listen on {listen}: {error}") from None
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self._socket = LoopSocket(socket, self._receive)
        self._watch = asyncio.create_task(self._expire())
        return bound

    async def close(self) -> None:
        """Stop serving."""
        self._watch.cancel()
        self._socket.close(linger_ms=100)
        self._doorman.close()
        await asyncio.to_thread(self._context.term)

    async def _expire(self) -> None:
        before = patient = time.monotonic()
        while True:
            await asyncio.sleep(EXPIRE_S / 8)
            now = time.monotonic()
            if now - before > EXPIRE_S / 2:
                # This process was itself stopped, and must not blame others for its silence.
                patient = now + EXPIRE_S
            before = now
            if now >= patient and self.register.expire(now):
                self._tell_gateways()

    def _receive(self, frames: list[bytes]) -> None:
        peer = frames[0]
        try:
            request = _decoded(frames[1:])
            answer = self._answer(peer, request)
        except (FleetError, ValueError, TypeError, KeyError) as error:
            logger.warning("the directory refuses a message: %s", error)
            answer = {"error": str(error)}
        if answer is not None:
            self._send(peer, answer)

    def _answer(self, peer: bytes, request: Record) -> Record | None:
        now = time.monotonic()
        match request.get("do"):
            case "announce":
                endpoint = WorkerEndpoint.from_json(json.dumps(request["endpoint"]))
                changed, order = self.register.announce(
                    endpoint, _record(request["report"]), request["draining"] is True, now
                )
                if changed:
                    self._tell_gateways()
                return {"drain": order}
            case "withdraw":
                if self.register.withdraw(str(request["incarnation"])):
                    self._tell_gateways()
                return None
            case "watch":
                name = str(request["gateway"])[:256]
                self.register.gateways[name] = _Gateway(_record(request["report"]), now, peer)
                return self._list()
            case "status":
                return self.register.status(now)
            case "drain":
                names = self.register.drain(str(request["target"]), request["wanted"] is True)
                self._tell_gateways()
                return {"workers": names}
        raise FleetError(f"a directory cannot {str(request.get('do'))[:40]!r}")

    def _list(self) -> Record:
        settled = time.monotonic() - self._began >= SETTLE_S
        return {"workers": self.register.listed(), "settled": settled}

    def _tell_gateways(self) -> None:
        message = self._list()
        for gateway in self.register.gateways.values():
            self._send(gateway.peer, message)

    def _send(self, peer: bytes, message: Record) -> None:
        with suppress(zmq.ZMQError):  # who has left meanwhile need not know
            self._socket.send([peer, _encoded(message)])


class Client:
    """A connection to a directory, made anew whenever it breaks. Belongs to one loop's thread."""

    def __init__(self, address: str, secret: str, on_message: Callable[[Record], None]) -> None:
        """Connect to `HOST:PORT`; the directory may come later."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = make_socket(self._context, zmq.DEALER)
        Credentials.of(secret).connect(socket)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        # Only what is true now is worth sending once the connection stands.
        socket.setsockopt(zmq.SNDHWM, 8)
        socket.connect(f"tcp://{address}")
        self._on_message = on_message
        self._socket = LoopSocket(socket, self._receive)

    def send(self, message: Record) -> None:
        """Send, or drop the message if the directory is not there."""
        with suppress(zmq.ZMQError):
            self._socket.send([_encoded(message)])

    async def close(self, linger_ms: int = 0) -> None:
        """Close the connection."""
        self._socket.close(linger_ms)
        await asyncio.to_thread(self._context.term)

    def _receive(self, frames: list[bytes]) -> None:
        try:
            self._on_message(_decoded(frames))
        except (FleetError, ValueError) as error:
            logger.warning("a message of the directory cannot be read: %s", error)


class DirectoryDiscovery:
    """The workers that a directory lists; see `cluster.discovery.Discovery`."""

    def __init__(
        self, address: str, secret: str, gateway: str, report: Callable[[], Record] | None = None
    ) -> None:
        """Watch the directory at `HOST:PORT` as `gateway`.

        What `report` gives is shown to people who ask the directory for the fleet's status.
        """
        self._address = address
        self._secret = secret
        self._gateway = gateway
        self._report = report or dict

    async def watch(self) -> AsyncIterator[Endpoints]:
        """See `Discovery`."""
        messages: asyncio.Queue[Record] = asyncio.Queue()
        client = Client(self._address, self._secret, messages.put_nowait)
        known: Endpoints | None = None
        try:
            while True:
                client.send({"do": "watch", "gateway": self._gateway, "report": self._report()})
                until = time.monotonic() + RENEW_S
                while (left := until - time.monotonic()) > 0:
                    try:
                        message = await asyncio.wait_for(messages.get(), left)
                    except TimeoutError:
                        break
                    now = _merged(known, message)
                    if now is not None and now != known:
                        known = now
                        yield now
        finally:
            await client.close()


class Announcer:
    """Keeps a worker's entry in the directory fresh."""

    def __init__(
        self,
        endpoint: WorkerEndpoint,
        secret: str,
        resolve: Callable[[], Any],
        report: Callable[[], Record],
        on_drain: Callable[[bool], None],
    ) -> None:
        """Announce `endpoint` to the directory whose address the coroutine `resolve` gives.

        It is asked again whenever the directory has been silent for a while. `on_drain` is called
        with an order to drain or to return.
        """
        self._endpoint = endpoint
        self._secret = secret
        self._resolve = resolve
        self._report = report
        self._on_drain = on_drain
        self._client: Client | None = None
        self._heard = 0.0
        self.draining = False
        self.registered = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Withdraw the entry."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._client is not None:
            self._client.send({"do": "withdraw", "incarnation": self._endpoint.incarnation})
            await self._client.close(linger_ms=500)

    async def _run(self) -> None:
        while True:
            try:
                await self._renew()
            except Exception as error:
                logger.warning("announcing to the directory failed: %s", error)
            await asyncio.sleep(RENEW_S)

    async def _renew(self) -> None:
        now = time.monotonic()
        if self._client is None or now - self._heard > EXPIRE_S:
            if self._client is not None:
                stale, self._client = self._client, None
                await stale.close()
            address = await asyncio.wait_for(self._resolve(), 5 * EXPIRE_S)
            self._client = Client(address, self._secret, self._receive)
            self._heard = time.monotonic()
        self._client.send(
            {
                "do": "announce",
                "endpoint": json.loads(self._endpoint.to_json()),
                "report": self._report(),
                "draining": self.draining,
            }
        )

    def _receive(self, message: Record) -> None:
        self._heard = time.monotonic()
        self.registered.set()
        order = message.get("drain")
        if isinstance(order, bool) and order != self.draining:
            self.draining = order
            self._on_drain(order)


async def ask(address: str, secret: str, request: Record, timeout_s: float = 5.0) -> Record:
    """One question and its answer; raises `FleetError` without one, or if it is an error."""
    answers: asyncio.Queue[Record] = asyncio.Queue()
    client = Client(address, secret, answers.put_nowait)
    try:
        client.send(request)
        answer = await asyncio.wait_for(answers.get(), timeout_s)
    except TimeoutError:
        raise FleetError(
            f"no answer from the directory at {address} within {timeout_s:g} s; is the fleet up, "
            "and is the shared secret the same?"
        ) from None
    finally:
        await client.close()
    if "error" in answer:
        raise FleetError(str(answer["error"]))
    return answer


def _merged(known: Endpoints | None, message: Record) -> Endpoints | None:
    """The list of a message; one of a young directory only adds to what is known."""
    entries = message.get("workers")
    if not isinstance(entries, list):
        logger.warning("the directory answers: %s", message.get("error", message))
        return None
    found = {}
    for entry in entries:
        try:
            endpoint = WorkerEndpoint.from_json(json.dumps(entry))
        except ValueError as error:
            logger.warning("the directory lists what is no worker: %s", error)
            continue
        found[endpoint.incarnation] = endpoint
    if message.get("settled") is not True:
        found = {endpoint.incarnation: endpoint for endpoint in known or ()} | found
    return tuple(sorted(found.values(), key=lambda e: (e.worker, e.incarnation)))


def _encoded(message: Record) -> bytes:
    return json.dumps({"protocol": PROTOCOL, **message}).encode()


def _decoded(frames: list[bytes]) -> Record:
    if len(frames) != 1:
        raise FleetError("a message of the directory's protocol has one frame")
    message: Any = json.loads(frames[0])
    if not isinstance(message, dict):
        raise FleetError("a message of the directory's protocol is a JSON object")
    if message.get("protocol") != PROTOCOL:
        raise FleetError(
            f"this end speaks version {PROTOCOL} of the directory's protocol, the other "
            f"{message.get('protocol')!r}; use the same release everywhere"
        )
    return message


def _record(value: Any) -> Record:
    if not isinstance(value, dict):
        raise FleetError("a report must be a JSON object")
    return value

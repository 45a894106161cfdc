"""Clients of the directory: workers that announce themselves, gateways that look for them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import zmq

from cluster.channel.security import Credentials
from cluster.channel.sockets import LoopSocket, make_socket
from cluster.discovery import Endpoints, WorkerEndpoint
from cluster.errors import FleetError
from cluster.fleet import protocol
from cluster.fleet.protocol import Record, decoded, encoded

logger = logging.getLogger("packhorse.fleet")


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
            self._socket.send([encoded(message)])

    async def close(self, linger_ms: int = 0) -> None:
        """Close the connection."""
        self._socket.close(linger_ms)
        await asyncio.to_thread(self._context.term)

    def _receive(self, frames: list[bytes]) -> None:
        try:
            self._on_message(decoded(frames))
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
                until = time.monotonic() + protocol.RENEW_S
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
        self._met = time.monotonic()
        self.draining = False
        self.complete = False
        """Whether as many workers were started as should run, as the directory last said."""
        self.registered = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def unheard_s(self) -> float:
        """For how long the directory has not answered."""
        return time.monotonic() - self._met

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
            await asyncio.sleep(protocol.RENEW_S)

    async def _renew(self) -> None:
        now = time.monotonic()
        if self._client is None or now - self._heard > protocol.EXPIRE_S:
            if self._client is not None:
                stale, self._client = self._client, None
                await stale.close()
            address = await asyncio.wait_for(self._resolve(), 5 * protocol.EXPIRE_S)
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
        self._heard = self._met = time.monotonic()
        self.registered.set()
        self.complete = message.get("complete") is True
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

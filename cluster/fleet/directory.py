"""The directory: where workers announce themselves and gateways find them.

One small server per fleet. Workers renew their entry every second and are forgotten when they stop;
gateways ask every second and are told at once when something changes. It holds nothing that its
clients would not tell it again, so it may die and start anew: gateways keep what they know, and
take a list as complete only from a directory that is old enough to have heard from everyone.
Batches do not pass through it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress

import zmq

from cluster.channel.security import Credentials, Doorman
from cluster.channel.sockets import LoopSocket, make_socket
from cluster.discovery import WorkerEndpoint
from cluster.errors import FleetError
from cluster.fleet import protocol
from cluster.fleet.protocol import Record, decoded, encoded, record
from cluster.fleet.register import Register, RegisteredGateway

logger = logging.getLogger("packhorse.fleet")


class Directory:
    """The server. Belongs to one event loop's thread."""

    def __init__(self, secret: str) -> None:
        """Serve clients that know `secret`; raises `ChannelError` if it could be guessed."""
        self.register = Register()
        self.complete = False
        """Whether as many workers were started as should run; set by whoever knows."""
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
            await asyncio.sleep(protocol.EXPIRE_S / 8)
            now = time.monotonic()
            if now - before > protocol.EXPIRE_S / 2:
                # This process was itself stopped, and must not blame others for its silence.
                patient = now + protocol.EXPIRE_S
            before = now
            if now >= patient and self.register.expire(now):
                self._tell_gateways()

    def _receive(self, frames: list[bytes]) -> None:
        peer = frames[0]
        try:
            request = decoded(frames[1:])
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
                    endpoint, record(request["report"]), request["draining"] is True, now
                )
                if changed:
                    self._tell_gateways()
                return {"drain": order, "complete": self.complete}
            case "withdraw":
                if self.register.withdraw(str(request["incarnation"])):
                    self._tell_gateways()
                return None
            case "watch":
                name = str(request["gateway"])[:256]
                self.register.gateways[name] = RegisteredGateway(
                    record(request["report"]), now, peer
                )
                return self._list()
            case "status":
                return self.register.status(now)
            case "drain":
                names = self.register.drain(str(request["target"]), request["wanted"] is True)
                self._tell_gateways()
                return {"workers": names}
        raise FleetError(f"a directory cannot {str(request.get('do'))[:40]!r}")

    def _list(self) -> Record:
        settled = time.monotonic() - self._began >= protocol.SETTLE_S
        return {"workers": self.register.listed(), "settled": settled}

    def _tell_gateways(self) -> None:
        message = self._list()
        for gateway in self.register.gateways.values():
            self._send(gateway.peer, message)

    def _send(self, peer: bytes, message: Record) -> None:
        with suppress(zmq.ZMQError):  # who has left meanwhile need not know
            self._socket.send([peer, encoded(message)])

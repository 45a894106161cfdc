"""The sockets of a worker: one for gateways of this machine, one for those of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from cluster.channel.security import Credentials, Doorman
from cluster.channel.sockets import LoopSocket, make_socket
from cluster.channel.streams import StreamListener
from cluster.discovery import WorkerEndpoint, machine_id
from cluster.errors import ChannelError
from cluster.worker.options import EndpointOptions

Socket = LoopSocket | StreamListener

Receive = Callable[[Socket, list[bytes]], None]
"""Called with the socket and the frames of a message, the first of which names the peer."""

Gone = Callable[[bytes], None]
"""Called with the name of a peer of this machine that has ended its connection."""


class Listeners:
    """Bound sockets, and whoever checks who may connect."""

    def __init__(
        self, options: EndpointOptions, incarnation: str, receive: Receive, gone: Gone
    ) -> None:
        """Bind what `options` names.

        Raises `ChannelError` if that is nothing, if it cannot be bound, and for tcp without a
        secret.
        """
        self._options = options
        self._receive = receive
        self._gone = gone
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[Socket] = []
        self._doorman: Doorman | None = None
        try:
            self.endpoint = self._open(incarnation)
        except (zmq.ZMQError, OSError) as error:
            self._close(0)
            self._context.term()
            raise ChannelError(f"worker '{options.worker}' cannot listen: {error}") from None
        except BaseException:
            self._close(0)
            self._context.term()
            raise

    async def close(self) -> None:
        """Close the sockets after what was just sent."""
        self._close(200)
        await asyncio.to_thread(self._context.term)

    def _open(self, incarnation: str) -> WorkerEndpoint:
        options = self._options
        if options.folder is None and options.tcp is None:
            raise ChannelError("a worker needs a folder for its socket, or a tcp address")
        ipc = tcp = None
        key = ""
        if options.folder is not None:
            path = options.folder / f"{incarnation}.sock"
            self._sockets.append(StreamListener(path, self._receive, self._gone))
            ipc = f"ipc://{path}"
        if options.tcp is not None:
            if options.secret is None:
                raise ChannelError(
                    "a worker that is reached over tcp needs the fleet's shared secret; "
                    "set PACKHORSE_FLEET_SECRET on workers and gateways"
                )
            credentials = Credentials.of(options.secret)
            key = credentials.worker.public.decode()
            self._doorman = Doorman(self._context, credentials)
            tcp = options.advertised(self._bind(f"tcp://{options.tcp}", credentials))
        return WorkerEndpoint(incarnation, options.worker, machine_id(), ipc, tcp, key)

    def _bind(self, address: str, credentials: Credentials) -> str:
        socket = make_socket(self._context, zmq.ROUTER)
        try:
            credentials.serve(socket)
            socket.bind(address)
        except BaseException:
            socket.close(0)
            raise
        bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        own = LoopSocket(socket, lambda frames: self._receive(own, frames))
        self._sockets.append(own)
        return bound

    def _close(self, linger_ms: int) -> None:
        for socket in self._sockets:
            socket.close(linger_ms)
        if self._doorman is not None:
            self._doorman.close()

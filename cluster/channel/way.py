"""The way from a gateway to a worker: a Unix socket on one machine, ZeroMQ with CURVE to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

from cluster.channel import streams
from cluster.channel.security import Credentials
from cluster.channel.sockets import Frame, LoopSocket, Monitor, PeerGoneError, make_socket
from cluster.discovery import WorkerEndpoint, machine_id
from cluster.errors import ChannelError

_AFTER_END_S = 0.005
"""After ZeroMQ has told of the end, what was sent before may still have to be read."""


@dataclass(frozen=True, slots=True)
class WayEvents:
    """What a way calls: with a message's frames, at its end, and with why it was turned away."""

    on_frames: Callable[[list[bytes]], None]
    on_end: Callable[[], None]
    on_rejected: Callable[[str], None]


class Way:
    """One connection. Belongs to one event loop's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: WorkerEndpoint,
        credentials: Credentials | None,
        events: WayEvents,
    ) -> None:
        """Connect to `endpoint`; over tcp that goes on after this returns.

        Raises `ChannelError` where it cannot be reached or must not be, `OSError` or
        `zmq.ZMQError` where connecting fails.
        """
        self._events = events
        self._open = True
        self._monitor: Monitor | None = None
        self._socket: LoopSocket | streams.Stream
        self.process = 0
        """Id of the worker's process, where it is one of this machine that can be seen."""
        worker = f"worker '{endpoint.worker}' ({endpoint.incarnation})"
        path = Path(endpoint.ipc.removeprefix("ipc://")) if endpoint.ipc is not None else None
        self.local = path is not None and endpoint.machine == machine_id() and path.exists()
        """Whether the worker is a process of this machine that memory can be shared with."""
        if path is not None and self.local:
            self.address = str(endpoint.ipc)
            stream = streams.connect(path, events.on_frames, events.on_end)
            self._socket, self.process = stream, stream.process
        elif endpoint.tcp is not None:
            self.address = endpoint.tcp
            self._socket = self._over_tcp(context, endpoint, credentials, worker)
        else:
            raise ChannelError(
                f"{worker} has no tcp address, and its socket cannot be reached from this machine"
            )

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message; what cannot be sent any more ends by the heartbeat."""
        with suppress(PeerGoneError):
            self._socket.send(frames)

    def close(self) -> None:
        """Call no more, and end the connection once what was sent is out."""
        self._open = False
        if self._monitor is not None:
            self._monitor.close()
        self._socket.close(linger_ms=100)

    def _over_tcp(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: WorkerEndpoint,
        credentials: Credentials | None,
        worker: str,
    ) -> LoopSocket:
        if credentials is None:
            raise ChannelError(
                f"{worker} is reached over tcp, which needs the fleet's shared secret; "
                "set PACKHORSE_FLEET_SECRET"
            )
        if endpoint.key and endpoint.key != credentials.worker.public.decode():
            raise ChannelError(f"{worker} has another shared secret than this gateway")
        socket = make_socket(context, zmq.DEALER)
        self._monitor = Monitor(socket, self._event)
        credentials.connect(socket)
        socket.connect(self.address)
        return LoopSocket(socket, self._events.on_frames)

    def _event(self, event: int) -> None:
        if not self._open:
            return
        if event == zmq.EVENT_DISCONNECTED:
            asyncio.get_running_loop().call_later(_AFTER_END_S, self._ended)
        else:
            self._events.on_rejected("ended the handshake; is its shared secret another one?")

    def _ended(self) -> None:
        if self._open:
            self._events.on_end()

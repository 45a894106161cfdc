"""ZeroMQ sockets on an asyncio event loop, by callbacks: the way between machines.

pyzmq's own asyncio sockets make a future per message and per poll; on a path of a few hundred
microseconds that is noticeable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

logger = logging.getLogger("packhorse.cluster")

Frame = bytes | memoryview

_AT_ONCE: Final = 64
"""Messages read in one turn of the loop, so that a flood does not hold up everything else."""

_COPIED: Final = 64 << 10
"""Frames below this size are copied into the message; larger ones are sent from where they lie."""

MAX_MESSAGE_BYTES: Final = 4 << 30


class PeerGoneError(OSError):
    """A message cannot be sent because its receiver is not connected any more."""


class LoopSocket:
    """Sends at once and calls `on_message` with the frames of each message that arrives."""

    def __init__(
        self, socket: zmq.Socket[bytes], on_message: Callable[[list[bytes]], None]
    ) -> None:
        """Take over a socket that is bound or connected already; close it by `close`."""
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._planned = False
        self._descriptor = _number(socket, zmq.FD)
        self._loop.add_reader(self._descriptor, self._read)
        self._plan()

    def send(self, frames: Sequence[Frame]) -> None:
        """Queue a message; raises `PeerGoneError` if the peer is not there."""
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                flags = zmq.NOBLOCK if index == last else zmq.NOBLOCK | zmq.SNDMORE
                self._socket.send(frame, flags, copy=len(frame) < _COPIED)
        except zmq.ZMQError as error:
            raise PeerGoneError(str(error)) from None
        # The descriptor signals once for what has arrived, and sending may take the signal away.
        if not self._planned and _number(self._socket, zmq.EVENTS) & zmq.POLLIN:
            self._plan()

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; messages not sent yet get `linger_ms`."""
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger_ms)

    def _plan(self) -> None:
        self._planned = True
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._planned = False
        for _ in range(_AT_ONCE):
            if self._socket.closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                logger.warning("reading from a socket failed: %s", error)
                return
            try:
                self._on_message(frames)
            except Exception:
                logger.exception("a message could not be handled")
        self._plan()


class Monitor:
    """Tells when a socket's connection ends or its handshake is refused."""

    EVENTS: Final = int(
        zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )

    def __init__(self, socket: zmq.Socket[bytes], on_event: Callable[[int], None]) -> None:
        """Watch `socket`, which must not have been connected yet."""
        self._watched = socket
        self._on_event = on_event
        self._reader = LoopSocket(socket.get_monitor_socket(zmq.Event(self.EVENTS)), self._read)

    def close(self) -> None:
        """Stop watching; before the socket itself is closed."""
        if not self._watched.closed:
            self._watched.disable_monitor()
        self._reader.close()

    def _read(self, frames: list[bytes]) -> None:
        self._on_event(parse_monitor_message(frames)["event"])


def _number(socket: zmq.Socket[bytes], option: zmq.SocketOption) -> int:
    value = socket.getsockopt(option)
    assert isinstance(value, int)
    return value


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    """A socket with what all of ours have in common."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    # Credits bound what is under way; a bound here would only turn into lost heartbeats.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.IPV6, 1)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    else:
        # A link is one connection: what comes back after a break is another incarnation.
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
    return socket

"""Who may talk to a worker over tcp: whoever knows the fleet's shared secret.

ZeroMQ's CURVE encrypts and authenticates a connection by a key pair on either side. Both pairs are
derived from the secret, so that there is one thing to distribute and nothing to register: a gateway
accepts the worker only if it has the worker's key, a worker a gateway only if it has the gateway's.
Sockets of one machine need none; their folder is closed to other users.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from cluster.channel.sockets import LoopSocket, make_socket
from cluster.errors import ChannelError

MIN_SECRET: Final = 16
VARIABLE: Final = "PACKHORSE_FLEET_SECRET"
_ZAP: Final = "inproc://zeromq.zap.01"  # fixed by ZeroMQ's RFC 27


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A CURVE key pair in Z85."""

    public: bytes
    secret: bytes

    @classmethod
    def derive(cls, secret: str, role: str) -> KeyPair:
        """The pair that `role` has under the shared secret."""
        seed = hmac.digest(secret.encode(), f"packhorse channel {role}".encode(), hashlib.sha256)
        private = z85.encode(seed)
        return cls(zmq.curve_public(private), private)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a fleet's secret gives to its workers and gateways."""

    worker: KeyPair
    gateway: KeyPair

    @classmethod
    def of(cls, secret: str) -> Credentials:
        """Derive the keys; raises `ChannelError` for a secret that could be guessed."""
        if len(secret) < MIN_SECRET:
            raise ChannelError(
                f"the fleet's shared secret must have at least {MIN_SECRET} characters; "
                "make one with: openssl rand -hex 32"
            )
        return cls(KeyPair.derive(secret, "worker"), KeyPair.derive(secret, "gateway"))

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make a worker's socket accept gateways of this fleet only; before it is bound."""
        socket.curve_server = 1
        socket.curve_secretkey = self.worker.secret
        socket.curve_publickey = self.worker.public
        socket.setsockopt(zmq.ZAP_DOMAIN, b"packhorse")

    def connect(self, socket: zmq.Socket[bytes]) -> None:
        """Make a gateway's socket connect to workers of this fleet only."""
        socket.curve_serverkey = self.worker.public
        socket.curve_secretkey = self.gateway.secret
        socket.curve_publickey = self.gateway.public


def read_secret(path: Path | None = None) -> str | None:
    """The fleet's secret from a file, else from PACKHORSE_FLEET_SECRET, else None."""
    if path is not None:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ChannelError(f"the fleet's secret cannot be read: {error}") from None
    return os.environ.get(VARIABLE) or None


class Doorman:
    """Answers ZeroMQ's question whether a peer may connect (ZAP, RFC 27)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], credentials: Credentials) -> None:
        self._allowed = z85.decode(credentials.gateway.public)
        self.refused = 0
        socket = make_socket(context, zmq.ROUTER)
        socket.bind(_ZAP)
        self._socket = LoopSocket(socket, self._answer)

    def close(self) -> None:
        """Stop answering."""
        self._socket.close()

    def _answer(self, frames: list[bytes]) -> None:
        # Envelope of the asking socket up to the empty frame, then: version, request id, domain,
        # address, identity, mechanism, credentials.
        start = frames.index(b"") + 1
        version, request, *_ = frames[start:]
        mechanism, given = frames[start + 5], frames[start + 6 :]
        allowed = (
            mechanism == b"CURVE"
            and len(given) == 1
            and hmac.compare_digest(given[0], self._allowed)
        )
        if not allowed:
            self.refused += 1
        verdict = [b"200", b"OK"] if allowed else [b"400", b"not of this fleet"]
        self._socket.send([*frames[:start], version, request, *verdict, b"", b""])

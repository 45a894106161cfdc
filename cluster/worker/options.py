"""What can be chosen about a worker's endpoint."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster.channel.heartbeat import Heartbeat
from cluster.errors import ChannelError


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Where a worker listens and how much it takes.

    `worker` names its place for people. `folder` is where its socket for this machine lies, None
    for none; it must be closed to other users, see `private_folder`. `tcp` is `HOST:PORT` to listen
    on, with port 0 for any, and None for not at all; `advertise` the host that gateways use, by
    default what `tcp` says or, for a wildcard, the address of this machine. `depth` batches run at
    once; `credits` is how many gateways together may have under way, so that the next one is there
    when a batch ends. `shared_bytes` bounds the shared memory for answers, per gateway; 0 means
    none. Models that a lost gateway held are kept for `keep_s` seconds. A run that does not get on
    for `stall_s`, or that takes `limit_s` and longer than its deadline, ends the worker; see
    `cluster.worker.watchdog`.
    """

    worker: str
    folder: Path | None = None
    tcp: str | None = None
    advertise: str | None = None
    secret: str | None = field(default=None, repr=False)
    credits: int = 2
    depth: int = 1
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    shared_bytes: int = 256 << 20
    keep_s: float = 60.0
    stall_s: float = 10.0
    limit_s: float = 60.0

    def __post_init__(self) -> None:
        if self.credits < 1 or self.depth < 1:
            raise ValueError("a worker's credits and depth must be at least 1")

    def advertised(self, bound: str) -> str:
        """The tcp address that gateways use, for the one that was bound."""
        host, _, port = bound.removeprefix("tcp://").rpartition(":")
        # Sockets speak IPv6 and IPv4; the latter is shown as mapped into the former (RFC 4291).
        host = host.strip("[]").removeprefix("::ffff:")
        if self.advertise is not None:
            host = self.advertise
        elif host in ("0.0.0.0", "::", "*"):
            host = own_address()
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"tcp://{host}:{port}"


def own_address() -> str:
    """The address under which other machines reach this one, as its routes have it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; 192.0.2.0/24 is for documentation.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def private_folder(path: Path | None = None) -> Path:
    """A folder for sockets that only this user can enter, made if need be.

    By default one of this user's among the temporary files. Raises `ChannelError` if it belongs to
    somebody else or is open to others.
    """
    if path is None:
        path = Path(tempfile.gettempdir()) / f"packhorse-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ChannelError(f"{path}: {error.strerror}; name another folder for sockets") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ChannelError(
            f"{path}: must be a folder of yours that is closed to others (chmod 700), because "
            "whoever enters it may send batches to the workers"
        )
    return path

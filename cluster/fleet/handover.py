"""How a worker that stands in gives its slot to the one that Serve has started in its stead.

The stand-in listens on a socket beside those for gateways, in a folder closed to other users. Who
connects is sent the open files of the lease (`unix(7)`, SCM_RIGHTS), so that the cores are never
without a holder; loads its models while the stand-in still answers; and then asks it to leave. The
connection ends with the stand-in's process, and the successor opens its endpoint. A successor that
fails before that only ends the connection, and nothing has changed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from contextlib import suppress
from hashlib import blake2s
from pathlib import Path
from typing import Final

from cluster.errors import FleetError
from cluster.fleet.configuration import FleetArguments
from cluster.topology.leases import Lease, lease_folder
from cluster.worker.options import private_folder

logger = logging.getLogger("packhorse.fleet")

_MOST_FILES: Final = 250
"""Files in one message; Linux allows 253 (SCM_MAX_FD)."""

_ANSWER_S: Final = 2.0
_LEAVE: Final = b"leave"


def _folder(arguments: FleetArguments) -> Path:
    return private_folder(Path(arguments.sockets) if arguments.sockets else None)


def _prefix(arguments: FleetArguments, fleet: str) -> str:
    """What the sockets of one fleet over one folder of leases have in common."""
    leases = Path(arguments.leases) if arguments.leases else lease_folder()
    return blake2s(f"{fleet}\0{leases.absolute()}".encode(), digest_size=8).hexdigest()


class Offer:
    """The stand-in's end. Belongs to one event loop's thread."""

    def __init__(self, arguments: FleetArguments, fleet: str, lease: Lease) -> None:
        """Offer `lease` to successors in `fleet`; raises `ChannelError` or `OSError`."""
        self.wanted = asyncio.Event()
        """Set when a successor is ready to serve in this process' stead."""
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._successor: socket.socket | None = None
        self._path = _folder(arguments) / f"{_prefix(arguments, fleet)}-{lease.slot.name}.handover"
        # Whoever holds the lease owns the name; what lies there is of a process that was killed.
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._path))
        self._socket.listen(1)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Offer no more; the successor takes it for the end of this process."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self._forget()

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._socket.accept()
            if self._successor is not None:
                connection.close()
                return
            connection.setblocking(False)
            try:
                _send(connection, self._lease)
            except OSError as error:
                logger.warning("the lease cannot be handed over: %s", error)
                connection.close()
                return
            self._successor = connection
            self._loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            message = connection.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == _LEAVE:
            self.wanted.set()
        elif not message:
            self._forget()

    def _forget(self) -> None:
        if self._successor is not None:
            self._loop.remove_reader(self._successor)
            self._successor.close()
            self._successor = None


class Predecessor:
    """The successor's end: a stand-in that has sent its lease and still serves."""

    def __init__(self, connection: socket.socket, slot: str, files: list[int]) -> None:
        self.slot = slot
        self.files = files
        """Of the lease; whoever takes them closes them."""
        self._connection = connection

    @classmethod
    def find(cls, arguments: FleetArguments, fleet: str) -> Predecessor | None:
        """A stand-in of `fleet` on this machine, None if there is none."""
        for path in sorted(_folder(arguments).glob(f"{_prefix(arguments, fleet)}-*.handover")):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(_ANSWER_S)
            try:
                connection.connect(str(path))
                slot, files = _receive(connection)
            except (OSError, ValueError, KeyError) as error:
                logger.info("%s: no stand-in answers: %s", path, error)
                connection.close()
                continue
            return cls(connection, slot, files)
        return None

    async def leave(self, timeout_s: float) -> None:
        """Ask it to leave, and wait for its end; raises `FleetError` if that does not come."""
        loop = asyncio.get_running_loop()
        self._connection.setblocking(False)
        try:
            await loop.sock_sendall(self._connection, _LEAVE)
            async with asyncio.timeout(timeout_s):
                while await loop.sock_recv(self._connection, 64):
                    pass
        except ConnectionError:
            return
        except TimeoutError:
            raise FleetError(
                f"the worker that stands in on {self.slot} does not leave within {timeout_s:g} s"
            ) from None

    def close(self) -> None:
        """End the connection; a stand-in that was not asked to leave goes on."""
        self._connection.close()


def _send(connection: socket.socket, lease: Lease) -> None:
    header = json.dumps({"slot": lease.slot.name, "files": len(lease.files)}).encode()
    lease.shared = True
    for start in range(0, len(lease.files), _MOST_FILES):
        files = lease.files[start : start + _MOST_FILES]
        socket.send_fds(connection, [header], files)


def _receive(connection: socket.socket) -> tuple[str, list[int]]:
    """A slot's name and the files of its lease; raises `OSError`, `ValueError` or `KeyError`."""
    files: list[int] = []
    try:
        while True:
            data, received, _, _ = socket.recv_fds(connection, 4096, _MOST_FILES)
            files += received
            header = json.loads(data)
            if not received or len(files) >= header["files"]:
                break
        if len(files) != header["files"]:
            raise ValueError(f"{len(files)} files of {header['files']}")
        for file in files:
            os.set_inheritable(file, False)
        return str(header["slot"]), files
    except BaseException:
        for file in files:
            os.close(file)
        raise

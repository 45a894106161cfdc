"""Discovery: which workers there are, and where each is reached.

A gateway watches a `Discovery` and keeps a connection to every worker that it names. How the list
comes about is the implementation's business: `EndpointList` is told, by a test or by whoever places
the workers; `FolderDiscovery` reads a folder in which every worker of this machine announces
itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

logger = logging.getLogger("packhorse.cluster")

_INCARNATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_CARD_BYTES = 16 << 10


@cache
def machine_id() -> str:
    """What tells this machine, since its last boot, from every other one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


def new_incarnation() -> str:
    """A name for one start of a worker, which no other start ever has."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class WorkerEndpoint:
    """Where one incarnation of a worker is reached.

    `incarnation` is new at every start of a worker, `worker` names its place for people and stays
    (`node-3/socket-0`). `ipc` is used by gateways whose `machine_id` is `machine`, `tcp` by the
    others; a worker may have one of them or both. `key` is the public key that a gateway expects on
    tcp; it follows from the shared secret and is no secret itself.
    """

    incarnation: str
    worker: str
    machine: str
    ipc: str | None = None
    tcp: str | None = None
    key: str = ""

    def to_json(self) -> str:
        """The endpoint as text, for a file or for another system's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote; raises `ValueError` for anything else."""
        data: Any = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("a worker's endpoint must be a JSON object")
        needed: dict[str, Any] = {
            name: data.get(name) for name in ("incarnation", "worker", "machine", "key")
        }
        optional: dict[str, Any] = {name: data.get(name) for name in ("ipc", "tcp")}
        for name, value in (needed | optional).items():
            if not isinstance(value, str) and not (value is None and name in optional):
                raise ValueError(f"a worker's endpoint: '{name}' must be a string, got {value!r}")
        if not _INCARNATION.fullmatch(needed["incarnation"]):
            raise ValueError(f"a worker's incarnation cannot be {needed['incarnation']!r}")
        for name, address in optional.items():
            if address is not None and not address.startswith(f"{name}://"):
                raise ValueError(f"a worker's endpoint: '{name}' is {address!r}, no {name}:// one")
        return cls(**needed, **optional)


Endpoints = tuple[WorkerEndpoint, ...]


class Discovery(Protocol):
    """Knows the workers of a fleet."""

    def watch(self) -> AsyncIterator[Endpoints]:
        """The workers now, and again, in full, after every change; ends only with its consumer.

        A worker that has vanished from the list gets no new batches and its connection is closed
        once its answers are in. One that is listed but does not answer is tried again and again,
        so an implementation need not notice deaths; noticing them saves the attempts.
        """


class EndpointList:
    """Workers that somebody lists by hand; `update` replaces the list.

    Belongs to one event loop's thread.
    """

    def __init__(self, endpoints: Iterable[WorkerEndpoint] = ()) -> None:
        self._endpoints = tuple(endpoints)
        self._changed = asyncio.Event()

    @property
    def endpoints(self) -> Endpoints:
        """The list as it is now."""
        return self._endpoints

    def update(self, endpoints: Iterable[WorkerEndpoint]) -> None:
        """Replace the list and wake those who watch it."""
        fresh = tuple(endpoints)
        if fresh != self._endpoints:
            self._endpoints = fresh
            self._changed.set()
            self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[Endpoints]:
        """See `Discovery`."""
        while True:
            changed = self._changed
            yield self._endpoints
            await changed.wait()


class FolderDiscovery:
    """Workers that announce themselves in a folder by an `Announcement`.

    Every worker holds a lock on its file, which the kernel drops when it dies, however it dies;
    files without a holder are left out and removed.
    """

    def __init__(self, folder: Path, *, interval_s: float = 0.1) -> None:
        """Look into `folder` every `interval_s` seconds; it may come into being later."""
        self._folder = folder
        self._interval_s = interval_s

    async def watch(self) -> AsyncIterator[Endpoints]:
        """See `Discovery`."""
        before: Endpoints | None = None
        while True:
            now = self.scan()
            if now != before:
                before = now
                yield now
            await asyncio.sleep(self._interval_s)

    def scan(self) -> Endpoints:
        """The workers that are alive now, by name."""
        try:
            paths = sorted(self._folder.glob("*.json"))
        except OSError:
            return ()
        found = (self._read(path) for path in paths)
        return tuple(
            sorted((card for card in found if card), key=lambda e: (e.worker, e.incarnation))
        )

    def _read(self, path: Path) -> WorkerEndpoint | None:
        try:
            with path.open("rb") as file:
                if _lockable(file.fileno()):
                    path.unlink(missing_ok=True)
                    return None
                return WorkerEndpoint.from_json(file.read(_MAX_CARD_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s: not a worker's announcement: %s", path, error)
            return None


class Announcement:
    """A worker's entry in the folder that a `FolderDiscovery` watches; gone when it is closed."""

    def __init__(self, folder: Path, endpoint: WorkerEndpoint) -> None:
        """Announce `endpoint`; raises `OSError` if the folder cannot be written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{endpoint.incarnation}.json"
        draft = self._path.with_suffix(".draft")
        self._file = draft.open("w", encoding="utf-8")
        # Locked before it gets its name, so that nobody takes it for a dead worker's.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(endpoint.to_json())
        self._file.flush()
        draft.rename(self._path)

    def close(self) -> None:
        """Withdraw the announcement."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def _lockable(descriptor: int) -> bool:
    """Whether nobody holds the file's lock; ours goes when the file is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

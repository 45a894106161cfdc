"""Leases on cores, so that no two workers of a machine ever share one.

A lease is an advisory lock (`flock(2)`) on one small file per physical core. The kernel drops it
when the last process that holds it ends, however it ends, so there is nothing to clean up and
nothing to expire. Slots of different fleets may be cut differently; they still exclude each other,
because the unit is the core and cores are named alike by every process of a machine. Leases reach
as far as the folder does: containers that share cores must share the folder too.

The content of a lease file says who holds it; it means nothing unless the file is locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cluster.errors import PlacementError, SlotTakenError
from cluster.topology.slots import Slot

LEASE_FOLDER: Final = Path("/tmp/packhorse-cores")
"""Where leases lie unless `PACKHORSE_LEASES` names another folder; alike for all users."""

_OWNER_BYTES: Final = 200


class Lease:
    """Exclusive use of some cores until `release`, the end of a `with` block or of the process.

    A lease can be handed from one process to another that the first one trusts, by sending it the
    open `files`: a lock belongs to the open file, and lasts until nobody has it open any more. The
    lock is never let go on the way.
    """

    def __init__(self, slot: Slot, files: list[int], *, shared: bool = False) -> None:
        """`shared` says that another process holds it, too; see `shared`."""
        self.slot = slot
        self.files = files
        self.shared = shared
        """Whether another process may go on with the lease when this one releases it."""

    def sign(self, owner: str) -> None:
        """Write into the files who holds them."""
        for file in self.files:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{owner}, process {os.getpid()}\n".encode()[:_OWNER_BYTES], 0)

    def release(self) -> None:
        """Give the cores back; may be called twice."""
        for file in self.files:
            if not self.shared:
                with contextlib.suppress(OSError):
                    # Unlocking also ends the hold of children that inherited the descriptor.
                    fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)
        self.files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lease_folder() -> Path:
    """The folder of this machine's leases."""
    return Path(os.environ.get("PACKHORSE_LEASES") or LEASE_FOLDER)


def take(slot: Slot, owner: str, folder: Path | None = None) -> Lease:
    """Lease every core of `slot` at once.

    `owner` is what others read when they find the slot taken. Raises `SlotTakenError` if any core
    is held, `PlacementError` if the folder cannot be used.
    """
    folder = _prepared(folder or lease_folder())
    files: list[int] = []
    try:
        # Ascending order, as everyone takes them; nobody waits, so nobody deadlocks.
        for core in sorted(slot.cores):
            file = _open(folder / f"core{core}")
            files.append(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, _OWNER_BYTES, 0).decode(errors="replace").strip()
                raise SlotTakenError(
                    f"slot {slot}: core {core} is leased by {holder or 'another process'}"
                ) from None
        lease = Lease(slot, files)
        lease.sign(owner)
    except BaseException:
        Lease(slot, files).release()
        raise
    return lease


def take_first(
    slots: Iterable[Slot],
    owner: str,
    folder: Path | None = None,
    *,
    preferred: int = 0,
    patience_s: float = 0.0,
) -> Lease:
    """Lease the first free slot, looking at number `preferred` first.

    Where all are taken, looks again until `patience_s` seconds have passed: a predecessor may be
    about to end. Raises `SlotTakenError`, which names every holder.
    """
    listed = list(slots)
    start = preferred % len(listed) if listed else 0
    until = time.monotonic() + patience_s
    while True:
        reasons = []
        for slot in listed[start:] + listed[:start]:
            try:
                return take(slot, owner, folder)
            except SlotTakenError as error:
                reasons.append(str(error))
        if time.monotonic() >= until:
            raise SlotTakenError(
                f"no free slot on this machine: {'; '.join(reasons) or 'it has none'}"
            )
        time.sleep(0.05)


def _prepared(folder: Path) -> Path:
    """The folder, made so that every user of the machine may lease; sticky, as `/tmp` is."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise PlacementError(f"{folder}: leases need a folder here, not a link or a file")
    except OSError as error:
        raise PlacementError(
            f"{folder}: cannot keep leases there: {error.strerror}; name another folder, the same "
            "for all workers of this machine, with PACKHORSE_LEASES"
        ) from None
    return folder


def _open(path: Path) -> int:
    """Open a lease file, made if it is missing.

    It is opened without `O_CREAT` first: with it, `fs.protected_regular` refuses files that other
    users made in a sticky folder.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        try:
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(file, 0o666)
            return file
        except FileExistsError:
            return os.open(path, flags)
    except OSError as error:
        raise PlacementError(f"{path}: cannot open the lease: {error.strerror}") from None

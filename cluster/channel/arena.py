"""Shared memory between a gateway and a worker of one machine.

Each direction has an arena of its own: a file in /dev/shm that its owner writes and its peer maps
read-only. The owner alone allocates and frees, so that the two share no lock: a request's block
is free when its answer arrives, an answer's block when the gateway says so. Blocks are reused in
any order, the lowest address first; a ring in order of allocation would stand still behind the
slowest answer. Memory is committed as it is first needed, since a write to a page that /dev/shm
has no room for would kill the process; where there is none, tensors travel in frames instead.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from bisect import insort
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster.channel.wire import WireError

Bytes = npt.NDArray[np.uint8]

FOLDER: Final = Path("/dev/shm")
_PREFIX: Final = "packhorse-"
_NONCE_BYTES: Final = 32
_GRAIN: Final = 4096
_COMMIT: Final = 1 << 20
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE of linux/mman.h, which mmap does not name yet


class Arena:
    """The owner's side. Belongs to one thread."""

    def __init__(self, size: int, folder: Path = FOLDER) -> None:
        """Room for `size` bytes; raises `OSError` where there is no shared memory at all."""
        self.size = max(size // _GRAIN, 2) * _GRAIN
        self.path = folder / (_PREFIX + secrets.token_hex(16))
        self.nonce = secrets.token_bytes(_NONCE_BYTES)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        try:
            # What is not locked any more belongs to the dead and is swept.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, self.size)
            os.posix_fallocate(self._file, 0, _GRAIN)
            self._map = mmap.mmap(self._file, self.size)
        except BaseException:
            self.unlink()
            os.close(self._file)
            raise
        self._map[:_NONCE_BYTES] = self.nonce
        self._committed = _GRAIN
        self._free: list[tuple[int, int]] = [(_GRAIN, self.size - _GRAIN)]
        self._used: dict[int, int] = {}
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self.address: int = self._bytes.ctypes.data
        self.released: deque[int] = deque()
        """Offsets of lent blocks that nobody looks at any more; filled from any thread."""
        self._lent = 0

    @property
    def used(self) -> int:
        """Bytes that are allocated now."""
        return sum(self._used.values())

    def offer(self) -> dict[str, Any]:
        """What the peer needs to map the arena."""
        return {"path": str(self.path), "size": self.size, "nonce": self.nonce.hex()}

    def allocate(self, size: int) -> int | None:
        """Offset of a block of `size` bytes, None where there is no room."""
        wanted = max(-(-size // _GRAIN), 1) * _GRAIN
        for index, (offset, room) in enumerate(self._free):
            if room >= wanted:
                if not self._commit(offset + wanted):
                    return None
                if room == wanted:
                    del self._free[index]
                else:
                    self._free[index] = (offset + wanted, room - wanted)
                self._used[offset] = wanted
                return offset
        return None

    def free(self, offset: int) -> None:
        """Give a block back; an offset that is not allocated does nothing."""
        size = self._used.pop(offset, None)
        if size is None:
            return
        insort(self._free, (offset, size))
        index = self._free.index((offset, size))
        if index + 1 < len(self._free) and self._free[index + 1][0] == offset + size:
            self._free[index] = (offset, size + self._free.pop(index + 1)[1])
        if index and sum(self._free[index - 1]) == offset:
            start, before = self._free[index - 1]
            self._free[index - 1] = (start, before + self._free.pop(index)[1])

    def view(self, offset: int, size: int) -> Bytes:
        """The bytes of an allocated block, to write."""
        return self._bytes[offset : offset + size]

    def lend(self, size: int) -> Bytes | None:
        """A block to write that is free again when the last array over it is gone.

        None where there is no room.
        """
        self._take_back()
        offset = self.allocate(size)
        if offset is None:
            return None
        self._lent += 1
        return np.asarray(_Loan(self, self.address, offset, size, read_only=False))

    def unlink(self) -> None:
        """Remove the name; who has mapped the arena keeps it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the memory back once nobody looks at it any more."""
        self.unlink()
        # The map itself goes with the last array over it.
        del self._bytes
        self._take_back()
        if not self._lent:
            with suppress(BufferError):
                self._map.close()
        os.close(self._file)

    def _take_back(self) -> None:
        for _ in range(len(self.released)):
            self.free(self.released.popleft())
            self._lent -= 1

    def _commit(self, end: int) -> bool:
        if end <= self._committed:
            return True
        size = min(-(-(end - self._committed) // _COMMIT) * _COMMIT, self.size - self._committed)
        try:
            os.posix_fallocate(self._file, self._committed, size)
        except OSError:
            return False
        with suppress(OSError):
            self._map.madvise(_POPULATE_WRITE, self._committed, size)
        self._committed += size
        return True


class Mapping:
    """The peer's side of an arena: reads blocks, and remembers which ones to give back."""

    def __init__(self, offer: Any) -> None:
        """Map what the owner offers.

        Raises `WireError` if the offer is none, and `OSError` if the memory cannot be reached from
        here, for example from another container.
        """
        match offer:
            case {"path": str(name), "size": int(size), "nonce": str(nonce)}:
                pass
            case _:
                raise WireError("an offer of shared memory must have a path, a size and a nonce")
        path = Path(name)
        if path.parent != FOLDER or not path.name.startswith(_PREFIX):
            raise WireError(f"{name[:200]!r} is no shared memory of ours")
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_size != size or size < 2 * _GRAIN:
                raise OSError(f"{path}: its size is not {size}")
            self._map = mmap.mmap(file, size, prot=mmap.PROT_READ)
        finally:
            os.close(file)
        if self._map[:_NONCE_BYTES].hex() != nonce:
            raise OSError(f"{path}: another arena of the same name")
        self._size = size
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self._address = self._bytes.ctypes.data
        self.released: deque[int] = deque()
        """Offsets of blocks that nobody here looks at any more; filled from any thread."""

    def view(self, offset: int, size: int) -> Bytes:
        """The bytes of a block, read-only; raises `WireError` if it is not inside the arena."""
        self._check(offset, size)
        return self._bytes[offset : offset + size]

    def lend(self, offset: int, size: int) -> Bytes:
        """As `view`, and the block joins `released` when the last array over it is gone."""
        self._check(offset, size)
        return np.asarray(_Loan(self, self._address, offset, size, read_only=True))

    def _check(self, offset: int, size: int) -> None:
        if not (offset >= _GRAIN and size > 0 and offset + size <= self._size):
            raise WireError(f"a block of {size} bytes at {offset} is not inside the shared memory")


class _Loan:
    """A block in use: what the arrays over it have as their base."""

    __slots__ = ("__array_interface__", "_offset", "_owner")

    def __init__(
        self, owner: Arena | Mapping, address: int, offset: int, size: int, *, read_only: bool
    ) -> None:
        self._owner = owner
        self._offset = offset
        self.__array_interface__ = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (address + offset, read_only),
        }

    def __del__(self) -> None:
        self._owner.released.append(self._offset)


def sweep(folder: Path = FOLDER) -> None:
    """Remove arenas whose owner died between making them and its peer's mapping them."""
    for path in folder.glob(_PREFIX + "*"):
        with suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)

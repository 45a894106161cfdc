"""Memory that kernels run on: aligned, page-backed, returned to the system when dropped."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import Any, Final

import numpy as np

from engine import cpu

_HUGE: Final = 2 << 20
"""Bytes of a huge page on x86-64."""

_WORTH_HUGE: Final = _HUGE // 4
"""Smaller blocks do not ask for huge pages."""

_NO_RESERVE: Final = 0x4000
"""MAP_NORESERVE of Linux on x86-64 and AArch64; the mmap module does not name it."""


class Block:
    """An anonymous mapping of at least `size` bytes, aligned to a page.

    Pages are committed when first touched, so a large reservation costs nothing by itself. Blocks
    of a huge page and more are aligned to one, since only whole aligned ones can become huge: their
    physical addresses are contiguous, which spreads them evenly over the sets of a cache. `reserve`
    takes address space that Linux does not count as promised memory, neither here nor at a fork.
    """

    def __init__(self, size: int, huge: bool = True, reserve: bool = False) -> None:
        self.size = max(size, mmap.PAGESIZE)
        wide = huge and self.size >= _WORTH_HUGE and hasattr(mmap, "MADV_HUGEPAGE")
        if wide:
            self.size = -(-self.size // _HUGE) * _HUGE if self.size < _HUGE else self.size
        room = self.size + (_HUGE if wide else 0)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NO_RESERVE if reserve else 0)
        self._map = mmap.mmap(-1, room, flags=flags)
        if wide:
            self._map.madvise(mmap.MADV_HUGEPAGE)
        whole = (ctypes.c_char * room).from_buffer(self._map)
        self._start = -ctypes.addressof(whole) % _HUGE if wide else 0
        self._view = whole
        self.address = ctypes.addressof(whole) + self._start

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The block's bytes; the array keeps the block's mapping alive."""
        return np.frombuffer(self._map, np.uint8, self.size, self._start)


class Arena:
    """Memory for the activations of one run at a time, which grows without moving.

    A larger block would have to be committed page by page again, all of it. So the first run that
    needs more than a little reserves address space for all the memory that the process may use;
    where that is refused (a limit on address space), blocks are replaced by larger ones.
    """

    __slots__ = ("_block",)

    def __init__(self) -> None:
        self._block = Block(1)

    def at_least(self, size: int) -> Block:
        """A block of at least `size` bytes; whoever runs on it must hold it until the end."""
        if self._block.size < size:
            self._block = Block(_WORTH_HUGE - 1) if size < _WORTH_HUGE else _reserved(size)
        return self._block


def _reserved(size: int) -> Block:
    with suppress(OSError, MemoryError):
        return Block(max(size, cpu.usable_memory()), reserve=True)
    return Block(size)


def words(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Zeroed int64 words that start on a cache line."""
    raw = np.zeros(count + 8, np.int64)
    skip = -(address(raw) // 8) % 8
    return raw[skip : skip + count]


def address(array: np.ndarray[Any, Any]) -> int:
    """Address of an array's first element.

    Read from the array object, whose C structure begins with the object header and the pointer to
    the data (NumPy reference, "Python types and C-structures", `PyArrayObject`), through a view of
    all memory as words: twenty times as fast as the ways that build a dictionary or an object.
    """
    return _memory[(id(array) + _HEADER) >> 3]


_HEADER: Final = object.__basicsize__
_memory: Final = memoryview((ctypes.c_char * (1 << 61)).from_address(0)).cast("B").cast("Q")

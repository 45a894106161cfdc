"""What the C library may keep of memory that was freed: little, in processes that serve.

glibc raises its thresholds with the largest array that was freed, up to 32 MiB from where arrays
have mappings of their own and 64 MiB of free memory that a process keeps (mallopt(3),
M_MMAP_THRESHOLD, "dynamic"). Requests of random shapes drive it there: over 600 images of 32 to
1100 pixels a process with the same live memory swings between 204 and 282 MiB, and small blocks
that outlive a request come to lie between the large ones. With fixed thresholds it stays between
210 and 220 MiB. The price is a page fault for each 4 KiB of every array above 1 MiB.

This is a setting of the whole process, so it is for those who own one: servers and workers call
it, loading a model does not.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

OWN_MAPPING: Final = 1 << 20
"""Bytes from which on an array is a mapping of its own, returned to the system when dropped."""

KEPT: Final = 8 << 20
"""Free bytes at the end of the heap from which on they are returned."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the settings in malloc.h."""

_OF_THE_USER: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""Environment variables by which glibc is told the same."""


def keep_little() -> bool:
    """Fix the thresholds of this process; whether that was done.

    Without effect where the environment sets them already, or the C library knows none.
    """
    if any(name in os.environ for name in _OF_THE_USER) or (
        "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None:
        return False
    return bool(option(_MMAP_THRESHOLD, OWN_MAPPING)) and bool(option(_TRIM_THRESHOLD, KEPT))

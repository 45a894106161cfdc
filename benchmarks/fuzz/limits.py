"""Limits of a trial's process, and the memory that a trial takes at its peak."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

ADDRESS_SPACE: Final = 6 << 30
"""Bytes that a process may map: an allocation beyond fails, as it would on a small machine."""

MEMORY: Final = 1 << 30
"""Bytes of memory that one input may add: a thousand times the largest file."""

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def limit_process() -> None:
    """Bound the calling process; no core file is written where it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Peak:
    """Bytes that the process's resident memory grew by at its peak, since this was made."""

    def __init__(self) -> None:
        _CLEAR.write_text("5")  # proc(5): resets the peak
        self._before = _field("VmRSS")

    def added(self) -> int:
        """Growth at the peak so far."""
        return _field("VmHWM") - self._before


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)

"""What schedules follow from, measured once per CPU: ``packhorse tune``.

A schedule (rows per work item, work items per thread, what runs on the caller's thread) is a
formula in the sizes of a request, evaluated at bind. Its few constants are here. They decide how
fast a program runs, never what it computes: the bytes are the same with any of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from engine import cpu
from engine.codegen.store import default_folder

VERSION: Final = 1
"""Raised when the meaning of a constant changes: what was measured before is then not used."""

_LONGEST: Final = 1 << 16


@dataclass(frozen=True)
class Tuning:
    """Constants of schedules.

    `row_block` is the number of rows that a work item of a product takes, enough that a panel read
    from the last-level cache is used many times; `items_per_thread` the number of work items per
    thread to aim at, so that shares come out even; `lane_flops_per_us` the operations that one
    vector lane of a core carries out in a microsecond within a product; `inline_ns` the predicted
    time up to which a program runs on the calling thread, because waking others takes longer.
    """

    row_block: int = 96
    items_per_thread: int = 8
    lane_flops_per_us: int = 8000
    inline_ns: int = 20_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**9:
                raise ValueError(f"{field.name} = {value!r} is no positive number")


DEFAULT: Final = Tuning()


def tuning_path(isa: str, folder: Path | None = None) -> Path:
    """Where the constants for this CPU and instruction set are kept."""
    digest = hashlib.sha256(cpu.machine().model_name.encode()).hexdigest()[:16]
    return (folder or default_folder()) / "schedules" / f"{isa}-{digest}.json"


def read_tuning(isa: str, folder: Path | None = None) -> Tuning:
    """Constants measured on this CPU, or the defaults where there are none that can be used."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        path = tuning_path(isa, folder)
        if path.stat().st_size > _LONGEST or path.stat().st_uid != os.geteuid():
            return DEFAULT
        found: dict[str, Any] = json.loads(path.read_text())
        if found["version"] == VERSION and found["cpu"] == cpu.machine().model_name:
            return Tuning(**found["constants"])
    return DEFAULT


def write_tuning(isa: str, tuning: Tuning, folder: Path | None = None) -> Path:
    """Keep constants for this CPU; the file can be carried to machines of the same CPU.

    Raises OSError where the folder cannot be written.
    """
    path = tuning_path(isa, folder)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "version": VERSION,
        "cpu": cpu.machine().model_name,
        "isa": isa,
        "constants": asdict(tuning),
    }
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="tmp-", delete=False) as file:
        json.dump(content, file, indent=1)
    Path(file.name).replace(path)
    return path

"""What schedules follow from, measured once per CPU: ``packhorse tune``.

A schedule (rows per work item, work items per thread, what runs on the caller's thread) is a
formula in the sizes of a request, evaluated at bind. Its few constants are here. They decide how
fast a program runs, never what it computes: the bytes are the same with any of them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from engine import cpu
from engine.codegen.store import FileStore, default_folder
from engine.errors import EngineError

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


class ScheduleStore(FileStore):
    """Constants by instruction set and CPU, as JSON that can be read and carried elsewhere."""

    suffix = ".json"

    def __init__(self, folder: Path | None = None, limit: int = 1 << 20) -> None:
        super().__init__((folder or default_folder()) / "schedules", limit)

    def get(self, isa: str, model_name: str) -> Tuning | None:
        """Constants measured on a CPU of this name; None where there are none of use."""
        path = self._path(_key(isa, model_name))
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and path.stat().st_size <= _LONGEST:
                found = _decoded(path.read_bytes())
                return found[1] if found and found[0] == _key(isa, model_name) else None
        return None

    def put(self, isa: str, model_name: str, tuning: Tuning) -> Path | None:
        """Keep constants; the path of the entry, None where the folder cannot be written."""
        content = {
            "version": VERSION,
            "cpu": model_name,
            "isa": isa,
            "constants": asdict(tuning),
        }
        data = json.dumps(content, indent=1).encode()
        key = _key(isa, model_name)
        return self._path(key) if self._write(key, lambda file: file.write(data)) else None

    def verified(self, content: bytes) -> str | None:
        """Key of an entry whose constants can be used, else None."""
        found = _decoded(content)
        return found[0] if found is not None else None

    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry, and the CPU that it was measured on."""
        with suppress(OSError):
            key = self.verified(path.read_bytes())
            return None if key is None else (key, "\n".join(key.split("\n")[1:]))
        return None


def _key(isa: str, model_name: str) -> str:
    return f"{isa} schedule-constants-{VERSION} \n{model_name}"


def _decoded(content: bytes) -> tuple[str, Tuning] | None:
    """Key and constants of an entry; None where anything about it is wrong."""
    try:
        found: dict[str, Any] = json.loads(content)
        if found["version"] != VERSION:
            return None
        return _key(str(found["isa"]), str(found["cpu"])), Tuning(**found["constants"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def read_tuning(isa: str, folder: Path | None = None) -> Tuning:
    """Constants measured on this CPU, or the defaults where there are none of use."""
    return ScheduleStore(folder).get(isa, cpu.machine().model_name) or DEFAULT


def write_tuning(isa: str, tuning: Tuning, folder: Path | None = None) -> Path:
    """Keep constants for this CPU. Raises EngineError where the folder cannot be written."""
    store = ScheduleStore(folder)
    path = store.put(isa, cpu.machine().model_name, tuning)
    if path is None:
        raise EngineError(
            f"{store.folder} cannot be written; set PACKHORSE_CACHE_DIR to a folder that can"
        )
    return path

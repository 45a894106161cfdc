"""What schedules follow from, measured once per CPU: ``packhorse tune``.

A schedule (rows per work item, work items per thread, what runs on the caller's thread) is a
formula in the sizes of a request, evaluated at bind. Its few constants are here. They decide how
fast a program runs, never what it computes: the bytes are the same with any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from engine import cpu
from engine.errors import EngineError
from engine.measured import MeasuredStore


@dataclass(frozen=True)
class Tuning:
    """Constants of schedules.

    `row_block` is the number of rows that a work item of a product takes, enough that a panel read
    from the last-level cache is used many times; `items_per_thread` the number of work items per
    thread to aim at, so that shares come out even; `lane_flops_per_us` the operations that one
    vector lane of a core carries out in a microsecond within a product; `inline_ns` the predicted
    time up to which a program runs on the calling thread, because waking others takes longer: on
    two cores of a virtual Cascade Lake, products and small networks predicted to take up to 56 µs
    were as fast or faster there, 1.0 to 2.5 times in a loop and 1.1 to 1.8 times after a pause.
    """

    row_block: int = 96
    items_per_thread: int = 8
    lane_flops_per_us: int = 8000
    inline_ns: int = 50_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**9:
                raise ValueError(f"{field.name} = {value!r} is no positive number")


DEFAULT: Final = Tuning()


class ScheduleStore(MeasuredStore[Tuning]):
    """Constants by instruction set and CPU."""

    folder_name = "schedules"
    kind = "schedule-constants"
    version = 1
    field = "constants"
    longest = 1 << 16

    def __init__(self, folder: Path | None = None, limit: int = 1 << 20) -> None:
        super().__init__(folder, limit)

    def get(self, isa: str, model_name: str) -> Tuning | None:
        """Constants measured on a CPU of this name; None where there are none of use."""
        return self.read(isa, model_name)

    def put(self, isa: str, model_name: str, tuning: Tuning) -> Path | None:
        """Keep constants; the path of the entry, None where the folder cannot be written."""
        return self.write(isa, model_name, asdict(tuning))

    def decode(self, content: Mapping[str, Any]) -> Tuning:
        """See MeasuredStore."""
        return Tuning(**content)


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

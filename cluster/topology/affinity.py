"""CPU affinity of whole processes: every thread, not only the calling one.

`sched_setaffinity` works on one thread. By the time a worker starts, its process has many: Ray's,
and those of libraries it imported. New threads inherit the mask of the thread that made them, so
pinning goes on until a pass over `/proc/PID/task` finds nothing left to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import PlacementError
from cluster.topology.slots import cpu_list
from engine import cgroup

_PASSES = 20


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread as the kernel shows it: id, name and the CPUs it may run on."""

    id: int
    name: str
    cpus: frozenset[int]


def pin(cpus: Iterable[int], pid: int | None = None) -> int:
    """Confine every thread of a process, by default this one, to `cpus`; returns their number.

    Raises `PlacementError` if the kernel refuses.
    """
    wanted = frozenset(cpus)
    for _ in range(_PASSES):
        found = threads(pid)
        outside = [thread for thread in found if not thread.cpus <= wanted]
        if not outside:
            return len(found)
        for thread in outside:
            try:
                os.sched_setaffinity(thread.id, wanted)
            except ProcessLookupError:
                continue
            except OSError as error:
                raise PlacementError(
                    f"cannot pin thread {thread.id} ({thread.name}) to CPUs {cpu_list(wanted)}: "
                    f"{error.strerror}"
                ) from None
    raise PlacementError(f"threads keep appearing outside CPUs {cpu_list(wanted)}")


def threads(pid: int | None = None) -> list[Thread]:
    """Every thread of a process, from `/proc/PID/task/*/status`."""
    found = []
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        fields = {}
        for line in (cgroup.read_text(task / "status") or "").splitlines():
            key, _, value = line.partition(":")
            fields[key] = value.strip()
        if "Cpus_allowed_list" in fields:  # else the thread has just ended
            allowed = cgroup.parse_cpu_list(fields["Cpus_allowed_list"])
            found.append(Thread(int(task.name), fields["Name"], allowed))
    return found


def strays(cpus: Iterable[int], pid: int | None = None) -> list[Thread]:
    """Threads of a process that may run outside `cpus`; a pinned worker has none."""
    wanted = frozenset(cpus)
    return [thread for thread in threads(pid) if not thread.cpus <= wanted]

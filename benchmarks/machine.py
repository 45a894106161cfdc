"""What the operating system says about this machine: CPUs, caches, load."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system/cpu")
QUIET_SHARE = 0.05


@dataclass(frozen=True)
class Cache:
    """A data or unified cache level: size in bytes, and how many CPUs share it."""

    level: int
    size: int
    shared_by: int


def usable_cpus() -> list[int]:
    """CPUs that this process may run on, in ascending order."""
    return sorted(os.sched_getaffinity(0))


def caches(cpu: int, root: Path = SYSFS) -> list[Cache]:
    """Data caches of a CPU from the innermost out; empty where the kernel does not tell."""
    found = []
    for index in sorted((root / f"cpu{cpu}" / "cache").glob("index*")):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            found.append(
                Cache(
                    level=int((index / "level").read_text()),
                    size=_size((index / "size").read_text().strip()),
                    shared_by=len(_cpu_list((index / "shared_cpu_list").read_text().strip())),
                )
            )
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda cache: cache.level)


def cpu_name() -> str:
    """Marketing name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def resident_bytes(pid: int | None = None) -> int:
    """Physical memory that a process holds now."""
    fields = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def busy_share(seconds: float) -> float:
    """Share of all CPU time that was not idle during the next `seconds`, 0 to 1.

    The caller sleeps meanwhile, so this is other processes' work, and steal by other guests.
    """
    before = _cpu_ticks()
    time.sleep(seconds)
    after = _cpu_ticks()
    spent = [end - start for start, end in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]
    return 1.0 - idle / total if (total := sum(spent)) else 0.0


def _cpu_ticks() -> Sequence[int]:
    # user, nice, system, idle, iowait, irq, softirq, steal; guest time is already in user.
    with Path("/proc/stat").open() as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


def _size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _cpu_list(text: str) -> list[int]:
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus

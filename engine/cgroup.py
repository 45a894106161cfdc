"""Limits that control groups put on this process: CPU time, CPU set and memory.

Read from files below a root folder, so that tests can feed recorded machines. Control groups nest
and every level may limit, so each reader walks from the group of the process up to the mount point
and keeps the tightest value. Sources: cgroups(7); the kernel's admin-guide `cgroup-v2` (`cpu.max`,
`cpuset.cpus.effective`, `memory.max`) and `cgroup-v1` (`cpu.cfs_quota_us`,
`cpuset.effective_cpus`, `memory.limit_in_bytes`).
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Version 1 writes "no memory limit" as the largest multiple of the page size below 2**63.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What control groups allow: CPUs of time, CPU ids, bytes of memory; None is unlimited."""

    quota: float | None = None
    cpus: frozenset[int] | None = None
    memory: int | None = None


def read_text(path: Path) -> str | None:
    """Content of a small kernel file, stripped, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return None


def parse_cpu_list(text: str) -> frozenset[int]:
    """CPU ids of the kernel's list format, as `0-3,8,10-11`; ValueError on anything else."""
    cpus: set[int] = set()
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def read_cpu_list(path: Path) -> frozenset[int] | None:
    """CPU ids listed in a kernel file, or None where it is missing, empty or malformed."""
    text = read_text(path)
    if not text:
        return None
    try:
        return parse_cpu_list(text)
    except ValueError:
        return None


def limits(root: Path = Path("/")) -> Limits:
    """Limits of this process' control groups, of versions 1, 2 or both, read below `root`."""
    quotas: list[float] = []
    sets: list[frozenset[int]] = []
    memory: list[int] = []
    for controllers, folders in _hierarchies(root):
        for folder in folders:
            if not controllers or "cpu" in controllers:
                quotas += _quota(folder)
            if not controllers or "cpuset" in controllers:
                for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
                    cpus = read_cpu_list(folder / name)
                    if cpus:
                        sets.append(cpus)
                        break
            if not controllers or "memory" in controllers:
                memory += _memory(folder)
    return Limits(
        quota=min(quotas, default=None),
        cpus=frozenset.intersection(*sets) if sets else None,
        memory=min(memory, default=None),
    )


def _hierarchies(root: Path) -> list[tuple[frozenset[str], list[Path]]]:
    """Mounted hierarchies: controllers (none for version 2) and our folders, innermost first."""
    groups = _groups(root)
    found = []
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if (
            not separator
            or len(fields) < 5
            or len(kind) < 3
            or kind[0] not in ("cgroup", "cgroup2")
        ):
            continue
        options = frozenset() if kind[0] == "cgroup2" else frozenset(kind[2].split(","))
        group = next((path for names, path in groups if names == options or names & options), None)
        if group is None:
            continue
        mount = root / fields[4].lstrip("/")
        found.append((options, _folders(mount, PurePosixPath(fields[3]), group)))
    return found


def _groups(root: Path) -> list[tuple[frozenset[str], PurePosixPath]]:
    """Lines of `/proc/self/cgroup`: controllers (none for version 2), path in the hierarchy."""
    groups = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            names = frozenset(name for name in fields[1].split(",") if name)
            groups.append((names, PurePosixPath(fields[2])))
    return groups


def _folders(mount: Path, mounted: PurePosixPath, group: PurePosixPath) -> list[Path]:
    """Folders from the process' group up to the mount point.

    A container without a cgroup namespace sees its host's path in `/proc/self/cgroup` while only
    that group is mounted; `mounted`, the mounted part of the hierarchy, tells how much of the path
    to drop.
    """
    try:
        inside = group.relative_to(mounted)
    except ValueError:
        return [mount]
    if ".." in inside.parts:
        return [mount]
    return [mount / inside, *(mount / parent for parent in inside.parents if inside.parts)]


def _quota(folder: Path) -> list[float]:
    """CPUs of time that one group allows, from `cpu.max` or `cpu.cfs_*`; empty for unlimited."""
    fields = (read_text(folder / "cpu.max") or "").split()
    if len(fields) != 2:
        fields = [
            read_text(folder / "cpu.cfs_quota_us") or "",
            read_text(folder / "cpu.cfs_period_us") or "",
        ]
    try:
        quota, period = int(fields[0]), int(fields[1])
    except ValueError:
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def _memory(folder: Path) -> list[int]:
    """Bytes of memory that one group allows; empty for unlimited."""
    text = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
    try:
        value = int(text or "")
    except ValueError:
        return []
    return [value] if 0 < value < _UNLIMITED_BYTES else []

"""Processes of ours that outlive the command which started them: found again, ended for sure.

A process id alone says little: ids are reused. Together with the time of its start, which the
kernel tells, it names one process for as long as the machine runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from engine import cgroup


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this machine since its last boot; `started` is in clock ticks since then."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this id now, None if there is none or it is dead."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return ProcessId.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self, timeout_s: float) -> bool:
        """Wait for its end; whether it came."""
        until = time.monotonic() + timeout_s
        while self.alive:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        return True


def descendants(root: ProcessId) -> list[ProcessId]:
    """Every process below `root`, as it is now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: list[ProcessId] = []
    waiting = list(children.get(root.pid, ()))
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ())
        if (process := ProcessId.of(pid)) is not None:
            found.append(process)
    return found


def end_tree(root: ProcessId, timeout_s: float) -> None:
    """Ask `root` to end; what is left of it and of all below it after `timeout_s` is killed."""
    tree = [root, *descendants(root)]
    root.signal(signal.SIGTERM)
    root.ended(timeout_s)
    grace = time.monotonic() + 2
    while any(process.alive for process in tree) and time.monotonic() < grace:
        time.sleep(0.05)
    for process in tree:
        process.signal(signal.SIGKILL)
    for process in tree:
        process.ended(2)


def _stat(pid: int) -> list[str] | None:
    """Fields of `/proc/PID/stat` from the state on (proc(5)); the name before may hold anything."""
    text = cgroup.read_text(Path(f"/proc/{pid}/stat"))
    return text.rpartition(")")[2].split() if text else None

"""Collects where, when and with what a benchmark ran."""

import datetime
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import engines
from benchmarks.machine import QUIET_SHARE, busy_share, caches, cpu_name, usable_cpus
from benchmarks.results import CacheSize, Provenance
from benchmarks.roofline.instruction_sets import INSTRUCTION_SETS, host_features

ROOT = Path(__file__).resolve().parent.parent
WATCH_SECONDS = 1.0


def collect() -> Provenance:
    """Describe this run; watches the machine for a second to see whether it is quiet."""
    cpus = usable_cpus()
    busy = busy_share(WATCH_SECONDS)
    commit, modified = _revision()
    present = host_features()
    interesting = sorted({need for isa in INSTRUCTION_SETS for need in isa.needs})
    return Provenance(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command(),
        cpu=cpu_name(),
        features=[name for name in interesting if present.get(name)],
        cpus=len(cpus),
        caches=[
            CacheSize(level=cache.level, size=cache.size, shared_by=cache.shared_by)
            for cache in caches(cpus[0])
        ],
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        commit=commit,
        modified=modified,
        versions={"python": platform.python_version(), **engines.versions()},
        load_average=os.getloadavg(),
        busy_share=busy,
        quiet=busy <= QUIET_SHARE,
    )


def command() -> str:
    """The benchmark that runs, with its options."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.stem
    return " ".join([name, *sys.argv[1:]])


def _revision() -> tuple[str | None, bool]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None, False

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return ask("rev-parse", "--short=12", "HEAD") or None, bool(ask("status", "--porcelain"))

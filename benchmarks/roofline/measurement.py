"""Runs the loops on one core and on all of them, and reports the best of several runs."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import Cache, caches, usable_cpus
from benchmarks.results import Bandwidth, Limits, Peak
from benchmarks.roofline.instruction_sets import (
    InstructionSet,
    available,
    host_features,
    widest_lanes,
)
from benchmarks.roofline.loops import DATA_BYTES, CompiledLoop, read

Memory = NDArray[Any]
Result = TypeVar("Result")

_ALIGNMENT = 4096
_TARGET_CPU = "x86-64"
# Linux: arch_prctl(2) and asm/prctl.h. Tile registers are off until a process asks for them.
_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds of one run, and runs of which the best counts."""

    run_seconds: float = 0.05
    runs: int = 7


QUICK = Effort(run_seconds=0.005, runs=2)
PROBE = Effort(run_seconds=0.02, runs=1)


class Meter:
    """Measures this machine with a given effort."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._probes: dict[str | None, tuple[InstructionSet, CompiledLoop]] = {}

    def measure(self) -> Limits:
        """Arithmetic peaks and read bandwidths of the CPUs that this process may use."""
        features = host_features()
        cpus = usable_cpus()
        peaks = [
            _peak(isa, cpus, self._effort)
            for isa in available(features)
            if not isa.uses_tiles or _request_tiles()
        ]
        bandwidths = [
            _bandwidth(level, size, cpus, self._effort, *widest_lanes(features))
            for level, size in working_sets(caches(cpus[0]), len(cpus))
        ]
        return Limits(cpus=len(cpus), peaks=peaks, bandwidths=bandwidths)

    def fp32(self, threads: int = 1, level: str | None = None) -> float:
        """GFLOP/s of the first `threads` usable cores together now, by their widest fp32 set.

        `level` is the engine's name of the widest set that counts. A neighbour on the same physical
        core does not show in the load average, but here.
        """
        if level not in self._probes:
            sets = [isa for isa in available(host_features()) if isa.kind == "fp32"]
            levels = [isa.level for isa in sets]
            widest = sets[levels.index(level)] if level in levels else sets[-1]
            loop = CompiledLoop(widest.loop(), _TARGET_CPU, widest.features)
            self._probes[level] = widest, loop
        isa, loop = self._probes[level]
        return _rate(loop, lambda: _operands(isa), usable_cpus()[:threads], PROBE)


def working_sets(levels: Sequence[Cache], cpus: int) -> list[tuple[str, int]]:
    """Bytes per core whose reading is served by each cache level, then by memory.

    Half of a core's share leaves room for the other data of the process, but a set must be at
    least twice the level below, or that level would serve much of it.
    """
    sets: list[tuple[str, int]] = []
    below = 0
    for cache in levels:
        share = cache.size // min(cache.shared_by, cpus)
        sets.append((f"L{cache.level}", max(share // 2, min(2 * below, share))))
        below = share
    largest = max((cache.size for cache in levels), default=32 << 20)
    sets.append(("memory", max(4 * largest // cpus, min(2 * largest, 256 << 20))))
    return sets


def _peak(isa: InstructionSet, cpus: Sequence[int], effort: Effort) -> Peak:
    loop = CompiledLoop(isa.loop(), _TARGET_CPU, isa.features)
    core, every = (
        _rate(loop, lambda: _operands(isa), subset, effort) for subset in (cpus[:1], cpus)
    )
    return Peak(name=isa.name, kind=isa.kind, level=isa.level, core=core, all_cores=every)


def _bandwidth(
    level: str, size: int, cpus: Sequence[int], effort: Effort, lanes: int, features: str
) -> Bandwidth:
    loop = CompiledLoop(read(lanes, size), _TARGET_CPU, features)

    def buffer() -> Memory:
        memory = _aligned(loop.work_per_round)
        memory.view(np.float32).fill(1.0)
        return memory

    core, every = (_rate(loop, buffer, subset, effort) for subset in (cpus[:1], cpus))
    return Bandwidth(level=level, working_set=loop.work_per_round, core=core, all_cores=every)


def _rate(
    loop: CompiledLoop, allocate: Callable[[], Memory], cpus: Sequence[int], effort: Effort
) -> float:
    """Best total of 1e9 operations (or bytes) per second over the given CPUs.

    Each CPU allocates its own data, so that pages are first touched where they are used.
    """
    data = _on_cpus(cpus, lambda _: allocate())

    def timed(member: int, rounds: int) -> float:
        start = time.perf_counter()
        loop(data[member].ctypes.data, rounds)
        return time.perf_counter() - start

    rounds = 1
    while (seconds := timed(0, rounds)) < effort.run_seconds / 4:
        rounds *= 4
    rounds = max(1, round(rounds * effort.run_seconds / seconds))
    work = loop.work_per_round * rounds
    runs = (_on_cpus(cpus, lambda member: timed(member, rounds)) for _ in range(effort.runs))
    return max(sum(work / seconds for seconds in run) for run in runs) / 1e9


def _on_cpus(cpus: Sequence[int], task: Callable[[int], Result]) -> list[Result]:
    """Results of task(0), task(1).. run at the same time, each by a thread pinned to its CPU."""
    barrier = threading.Barrier(len(cpus))
    results: dict[int, Result] = {}

    def member(index: int) -> None:
        os.sched_setaffinity(0, {cpus[index]})
        barrier.wait()
        results[index] = task(index)

    threads = [threading.Thread(target=member, args=(index,)) for index in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(cpus))]


def _operands(isa: InstructionSet) -> Memory:
    memory = _aligned(DATA_BYTES)
    if isa.uses_tiles:
        # Layout of ldtilecfg: palette, start row, 14 reserved, 16 x u16 row bytes, 16 x u8 rows.
        memory[0] = 1
        memory[16:32].view(np.uint16)[:] = 64
        memory[48:56] = 16
    elif isa.kind == "fp32":
        memory.view(np.float32).fill(0.5)
    elif isa.kind == "bf16":
        memory.view(np.uint16).fill(0x3F00)
    else:
        memory.fill(1)
    return memory


def _aligned(size: int) -> Memory:
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


def _request_tiles() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    granted: int = libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
    return granted == 0

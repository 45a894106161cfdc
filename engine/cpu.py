"""The machine as this process may use it: instruction sets, CPUs and caches.

Everything is read from files below a root folder, so that tests can feed recorded machines. Usable
CPUs are the affinity mask cut down by control groups, never the number of CPUs that exist: in a
container those differ.
"""

import ctypes
import errno
import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import cgroup

Isa = Literal["baseline", "avx2", "avx512"]

ISA_FEATURES: dict[Isa, frozenset[str]] = {
    "baseline": frozenset(),
    "avx2": frozenset({"avx2", "fma", "bmi2", "f16c"}),
    "avx512": frozenset(
        {"avx2", "fma", "bmi2", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
    ),
}
"""Features that each instruction set level needs, weakest level first, in LLVM's names."""

# Names in `/proc/cpuinfo` that differ from LLVM's beyond "_" for "-" or for nothing.
_LLVM_NAMES = {
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "pni": "sse3",
    "bmi1": "bmi",
}
_KNOWN = frozenset(
    [f"sse{version}" for version in ("2", "3", "4.1", "4.2")]
    + ["ssse3", "popcnt", "bmi", "bmi2", "f16c", "fma", "avx", "avx2", "avxvnni"]
    + [f"avx512{part}" for part in ("f", "bw", "dq", "vl", "cd", "vnni", "bf16", "fp16")]
    + ["amx-tile", "amx-bf16", "amx-int8", "asimd", "asimddp", "bf16", "i8mm", "sve"]
)

# Sizes assumed where sysfs shows no caches (some sandboxes and virtual machines): small ones,
# because a tile that underfills a cache loses less than one that overflows it.
_ASSUMED_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 4 << 20}

_SYS_ARCH_PRCTL = 158
_ARCH_GET_XCOMP_PERM = 0x1022
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache: its level, size and line in bytes, and the CPU ids that share it."""

    level: int
    size: int
    line: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use of the machine it runs on.

    `cpus` are the usable CPU ids in ascending order, `cores` the same ids grouped by physical
    core, `quota` the CPUs of time per second that control groups allow (None: unlimited), `memory`
    their limit in bytes. `caches` holds data and unified caches of the usable CPUs. `notes` says
    in sentences what was cut down or assumed.
    """

    architecture: str
    model_name: str
    features: frozenset[str]
    cpus: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    quota: float | None
    memory: int | None
    caches: tuple[Cache, ...]
    notes: tuple[str, ...]

    @property
    def threads(self) -> int:
        """Threads to run by default: the usable CPUs, at most the time quota, at least one.

        The quota is rounded down: a thread beyond it does not slow the others a little, it gets
        the whole process stopped for the rest of a scheduling period (up to 100 ms) whenever the
        quota runs out.
        """
        if self.quota is None:
            return len(self.cpus)
        return max(1, min(len(self.cpus), int(self.quota)))

    @property
    def isas(self) -> tuple[Isa, ...]:
        """Instruction set levels this CPU has, weakest first."""
        return tuple(isa for isa, needed in ISA_FEATURES.items() if needed <= self.features)

    @property
    def isa(self) -> Isa:
        """The strongest instruction set level of this CPU."""
        return self.isas[-1]

    @property
    def amx(self) -> bool:
        """Whether the CPU has AMX tiles; for the kernel's permission see `request_amx`."""
        return "amx-tile" in self.features

    def cache_bytes(self, level: int) -> int:
        """Bytes of the smallest usable cache of `level` 1, 2 or 3; assumed where none is shown.

        Level 3 of a machine that has caches but no level 3 is its level 2.
        """
        sizes = [cache.size for cache in self.caches if cache.level == level]
        if sizes:
            return min(sizes)
        if level == 3 and self.caches:
            return self.cache_bytes(2)
        return _ASSUMED_CACHES[level]


@functools.cache
def usable_memory() -> int:
    """Bytes that this process may use: the machine's memory, or what control groups leave of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = machine().memory
    return physical if limit is None else min(physical, limit)


@dataclass(frozen=True, slots=True)
class AmxPermission:
    """Whether this process may use AMX tiles, and the reason in one sentence."""

    granted: bool
    reason: str


@functools.cache
def machine() -> Machine:
    """The machine this process runs on, detected once; call `detect` after the affinity changes."""
    return detect()


def detect(root: Path = Path("/")) -> Machine:
    """Detect the machine from `/proc` and `/sys` below `root`.

    For the running machine (`root` is `/`) the affinity of the calling thread comes from the
    kernel and the CPU flags are cross-checked with LLVM's own CPUID detection; a feature must be
    in both, because the kernel knows what the operating system enabled and LLVM knows what it can
    emit.
    """
    notes: list[str] = []
    live = root == Path("/")
    info = _cpuinfo(root)
    features = _features(info)
    if live:
        features = _cross_checked(features, notes)
    cpus, quota, memory = _usable(root, live, notes)
    caches = _caches(root, cpus)
    if not caches:
        notes.append("no cache sizes below sys/devices/system/cpu; typical small sizes assumed")
    return Machine(
        architecture=platform.machine() if live else ("x86_64" if "flags" in info else "unknown"),
        model_name=info.get("model name") or info.get("Model") or "unknown CPU",
        features=features,
        cpus=cpus,
        cores=_cores(root, cpus),
        quota=quota,
        memory=memory,
        caches=caches,
        notes=tuple(notes),
    )


def request_amx() -> AmxPermission:
    """Ask the kernel for permission to use AMX tiles, for all threads of this process.

    Linux gives the permission per process on request (`arch_prctl(ARCH_REQ_XCOMP_PERM,
    XTILEDATA)`, see the kernel's documentation "Using XSTATE features in user space
    applications"). It is safe to call repeatedly.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return AmxPermission(False, "AMX exists on x86-64 Linux only")
    if not machine().amx:
        return AmxPermission(False, "this CPU has no AMX")
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    if syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) != 0:
        return AmxPermission(False, amx_refusal(ctypes.get_errno()))
    granted = ctypes.c_uint64()
    syscall(_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(granted))
    if not granted.value >> _XFEATURE_XTILEDATA & 1:
        return AmxPermission(False, "the kernel accepted the request and granted nothing")
    return AmxPermission(True, "granted by the kernel")


def amx_refusal(error: int) -> str:
    """The reason behind an `errno` of the AMX permission request, with what to do about it."""
    name = errno.errorcode.get(error, str(error))
    if error == errno.ENOSPC:
        return (
            f"the alternate signal stack of a thread is too small for AMX state ({name}); request "
            "the permission before faulthandler or a library installs signal stacks"
        )
    if error in (errno.EINVAL, errno.ENOSYS):
        return f"the kernel does not know AMX permissions ({name}); it needs Linux 5.16 or later"
    if error == errno.EOPNOTSUPP:
        return f"the kernel has AMX switched off ({name})"
    if error == errno.EPERM:
        return f"a sandbox forbids the request ({name}); allow arch_prctl in its seccomp profile"
    return f"the kernel refused ({name}: {os.strerror(error)})"


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries of `/proc/cpuinfo`."""
    entries: dict[str, str] = {}
    for line in (cgroup.read_text(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip(), value.strip())
    return entries


def _features(info: dict[str, str]) -> frozenset[str]:
    """CPU features in LLVM's names, from the flags that the kernel shows."""
    flags = (info.get("flags") or info.get("Features") or "").split()
    return frozenset(_LLVM_NAMES.get(flag, flag) for flag in flags) & _KNOWN


def _cross_checked(features: frozenset[str], notes: list[str]) -> frozenset[str]:
    """Features that LLVM's CPUID detection confirms, with a note on those it does not."""
    import llvmlite.binding

    known_to_llvm: dict[str, bool] = dict(llvmlite.binding.get_host_cpu_features())
    if not known_to_llvm:
        return features
    denied = {name for name in features if known_to_llvm.get(name) is False}
    if denied:
        notes.append(f"shown by the kernel, not confirmed by CPUID: {', '.join(sorted(denied))}")
    if not features:
        notes.append("no CPU flags in proc/cpuinfo; using CPUID alone")
        return frozenset(name for name, present in known_to_llvm.items() if present) & _KNOWN
    return features - denied


def _usable(
    root: Path, live: bool, notes: list[str]
) -> tuple[tuple[int, ...], float | None, int | None]:
    """Usable CPU ids, CPU time quota and memory limit, with notes on what cut them down."""
    existing = cgroup.read_cpu_list(root / "sys/devices/system/cpu/online")
    affinity = frozenset(os.sched_getaffinity(0)) if live else _allowed(root)
    if affinity and existing and affinity & existing:
        affinity &= existing  # masks may name CPUs that are offline
    if not affinity:
        affinity = existing or frozenset({0})
    if existing and len(affinity) < len(existing):
        notes.append(f"affinity allows {len(affinity)} of {len(existing)} CPUs")
    limits = cgroup.limits(root)
    cpus = affinity
    if limits.cpus is not None and not affinity <= limits.cpus and affinity & limits.cpus:
        cpus = affinity & limits.cpus
        notes.append(f"the control group's CPU set allows {len(cpus)} of {len(affinity)} CPUs")
    if limits.quota is not None and limits.quota < len(cpus):
        notes.append(f"the control group's time quota allows {limits.quota:g} CPUs")
    return tuple(sorted(cpus)), limits.quota, limits.memory


def _allowed(root: Path) -> frozenset[int] | None:
    """CPU ids of the affinity mask as `/proc/self/status` shows it."""
    for line in (cgroup.read_text(root / "proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "Cpus_allowed_list":
            return cgroup.parse_cpu_list(value)
    return None


def _cores(root: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Usable CPU ids grouped by physical core; a core each where topology files are missing."""
    cores = set()
    for cpu in cpus:
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = cgroup.read_cpu_list(folder / "thread_siblings_list") or frozenset({cpu})
        cores.add(tuple(sorted(siblings & set(cpus))) or (cpu,))
    return tuple(sorted(cores))


def _caches(root: Path, cpus: tuple[int, ...]) -> tuple[Cache, ...]:
    """Data and unified caches of the usable CPUs, each once, by level."""
    found: set[Cache] = set()
    for cpu in cpus:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
            level = cgroup.read_text(index / "level") or ""
            size = _bytes(cgroup.read_text(index / "size") or "")
            if cgroup.read_text(index / "type") == "Instruction" or not level.isdigit() or not size:
                continue
            line = cgroup.read_text(index / "coherency_line_size") or ""
            sharers = cgroup.read_cpu_list(index / "shared_cpu_list") or frozenset({cpu})
            found.add(
                Cache(int(level), size, int(line) if line.isdigit() else 64, tuple(sorted(sharers)))
            )
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.cpus)))


def _bytes(text: str) -> int:
    """Bytes of a size as sysfs writes it (`32K`, `36608K`, `2M`); 0 for anything else."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
    digits = text[:-1] if unit else text
    return int(digits) * (unit or 1) if digits.isdigit() else 0

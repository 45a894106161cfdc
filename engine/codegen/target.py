"""Instruction sets that kernels are generated for.

A target fixes vector width, register count and the few operations that differ. Generators ask the
target and never test for an instruction set by name. Code is compiled for a fixed CPU level, not
for the host's model, so that the same request gives the same bytes on every machine of a level.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from typing import Final

import llvmlite.binding as llvm

from engine.errors import CompileError


@dataclass(frozen=True)
class Target:
    """One instruction set.

    `vector_bytes` is the width of a vector register, `registers` their number. `fused` tells
    whether multiply-add is one rounding, `masks` whether loads and stores under a mask cost no more
    than plain ones. `vector_register` names the vector registers where generators may write
    assembly for them.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fused: bool
    masks: bool = False
    vector_register: str = ""

    def lanes(self, itemsize: int = 4) -> int:
        """Elements of `itemsize` bytes in one vector."""
        return self.vector_bytes // itemsize

    def tile_rows(self, vectors: int) -> int:
        """Height of the dot kernel's register tile for panels of `vectors` vectors."""
        return self.tile_ladder(vectors)[0]

    def tile_ladder(self, vectors: int) -> tuple[int, ...]:
        """Heights of the dot kernel's register tiles, falling, for panels of `vectors` vectors.

        Accumulators, the panel's vectors and one broadcast must fit the registers; twelve rows
        suffice to make a panel's loads rare. Lower tiles are for the last rows; a tile of fewer
        than eight accumulators takes no less time than one of eight.
        """
        spare = self.registers - vectors - 1
        rows = min(12, spare // vectors)
        step = 4 if rows >= 8 else 2
        return tuple(range(rows - rows % step, 0, -step))

    @property
    def panel_vectors(self) -> tuple[int, ...]:
        """Widths, in vectors, of the panels that B may be packed into."""
        return (1, 2, 3, 4) if self.registers >= 32 else (1, 2)


_X86: Final = "x86_64-unknown-linux-gnu"
_TARGETS: Final = {
    "baseline": Target("baseline", _X86, "x86-64", "", 16, 16, False),
    "avx2": Target("avx2", _X86, "x86-64-v3", "", 32, 16, True, vector_register="ymm"),
    "avx512": Target("avx512", _X86, "x86-64-v4", "", 64, 32, True, True, "zmm"),
}
_LADDER: Final = ("baseline", "avx2", "avx512")
_NEEDS: Final = {
    "baseline": frozenset[str](),
    "avx2": frozenset({"avx2", "fma", "bmi2", "f16c"}),
    "avx512": frozenset({"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}),
}


@cache
def host_features() -> frozenset[str]:
    """Features of the CPU this process runs on, under LLVM's names."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


@cache
def available() -> tuple[str, ...]:
    """Names of the instruction sets this machine can run, weakest first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ("generic",)
    return tuple(name for name in _LADDER if host_features() >= _NEEDS[name])


@cache
def select(name: str | None = None) -> Target:
    """The target called `name`, or the strongest this machine can run.

    Raises CompileError where the machine lacks the instruction set.
    """
    if name is None:
        name = available()[-1]
    if name not in available():
        missing = sorted(_NEEDS.get(name, frozenset()) - host_features())
        detail = f"the CPU lacks {', '.join(missing)}" if missing else "no such instruction set"
        raise CompileError(f"isa {name!r}: {detail}; available here: {', '.join(available())}")
    if name == "generic":
        return _generic()
    return _TARGETS[name]


def _generic() -> Target:
    """128-bit vectors for any other CPU that LLVM knows."""
    return Target(
        "generic",
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        16,
        32 if platform.machine() == "aarch64" else 16,
        platform.machine() == "aarch64",
    )

"""Instruction sets whose arithmetic peak is measured, with what they need and how they loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import llvmlite.binding as llvm

from benchmarks.roofline import loops

Kind = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class InstructionSet:
    """One row of the table of peaks.

    `needs` are LLVM's feature names; `level` is the engine's name for a mask that still has it.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    loop: Callable[[], loops.Loop]
    level: str | None = None

    @property
    def features(self) -> str:
        """LLVM feature string that enables exactly this set on a baseline CPU."""
        return ",".join(f"+{name}" for name in self.needs)

    @property
    def uses_tiles(self) -> bool:
        """Whether the process must ask the kernel for AMX first."""
        return "amx-tile" in self.needs


# One AMX instruction multiplies 16 rows by 64 bytes with 16 columns.
_TILE_BF16 = 2 * 16 * 16 * 32
_TILE_INT8 = 2 * 16 * 16 * 64

INSTRUCTION_SETS: tuple[InstructionSet, ...] = (
    InstructionSet("SSE2", "fp32", (), partial(loops.multiply_add, 4, fused=False), "baseline"),
    InstructionSet(
        "AVX2", "fp32", ("avx2", "fma"), partial(loops.multiply_add, 8, fused=True), "avx2"
    ),
    InstructionSet(
        "AVX-512",
        "fp32",
        ("avx512f", "fma"),
        partial(loops.multiply_add, 16, fused=True),
        "avx512",
    ),
    InstructionSet("AVX-512 BF16", "bf16", ("avx512f", "avx512bf16"), partial(loops.dot_bf16, 16)),
    InstructionSet(
        "AMX BF16", "bf16", ("amx-tile", "amx-bf16"), partial(loops.tiles, "tdpbf16ps", _TILE_BF16)
    ),
    InstructionSet("AVX-VNNI", "int8", ("avx2", "avxvnni"), partial(loops.dot_int8, 8)),
    InstructionSet("AVX-512 VNNI", "int8", ("avx512f", "avx512vnni"), partial(loops.dot_int8, 16)),
    InstructionSet(
        "AMX INT8", "int8", ("amx-tile", "amx-int8"), partial(loops.tiles, "tdpbusd", _TILE_INT8)
    ),
)


def host_features() -> Mapping[str, bool]:
    """CPU features by LLVM name, as far as the operating system has enabled them."""
    features: Mapping[str, bool] = llvm.get_host_cpu_features()
    return features


def available(features: Mapping[str, bool]) -> tuple[InstructionSet, ...]:
    """Instruction sets that a CPU with `features` can run."""
    return tuple(
        isa for isa in INSTRUCTION_SETS if all(features.get(name, False) for name in isa.needs)
    )


def widest_lanes(features: Mapping[str, bool]) -> tuple[int, str]:
    """fp32 lanes of the widest vector and the LLVM features it needs, for read loops."""
    if features.get("avx512f"):
        return 16, "+avx512f"
    if features.get("avx2"):
        return 8, "+avx2"
    return 4, ""

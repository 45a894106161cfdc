import llvmlite.binding as llvm
import numpy as np
import pytest

from benchmarks.roofline.instruction_sets import (
    INSTRUCTION_SETS,
    available,
    host_features,
    widest_lanes,
)
from benchmarks.roofline.loops import ACCUMULATORS, CompiledLoop, read, target_machine

MNEMONICS = {
    "SSE2": ("mulps", 12),
    "AVX2": ("vfmadd", 12),
    "AVX-512": ("vfmadd", 12),
    "AVX-512 BF16": ("vdpbf16ps", 12),
    "AMX BF16": ("tdpbf16ps", 4),
    "AVX-VNNI": ("vpdpbusd", 12),
    "AVX-512 VNNI": ("vpdpbusd", 12),
    "AMX INT8": ("tdpbusd", 4),
}


@pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=lambda isa: isa.name)
def test_each_loop_becomes_its_instructions_and_spills_nothing(isa):
    machine = target_machine("x86-64", isa.features)
    lines = machine.emit_assembly(llvm.parse_assembly(str(isa.loop().module))).splitlines()
    branch = max(index for index, line in enumerate(lines) if line.strip().startswith("j"))
    target = lines[branch].split()[-1]
    loop = lines[lines.index(f"{target}:") : branch]
    mnemonic, count = MNEMONICS[isa.name]
    assert sum(mnemonic in line for line in loop) == count
    assert not any("(%rsp)" in line or "(%rdi" in line for line in loop)


def test_work_per_round_counts_two_operations_per_product():
    work = {isa.name: isa.loop().work_per_round for isa in INSTRUCTION_SETS}
    assert work["AVX2"] == 2 * 8 * ACCUMULATORS
    assert work["AVX-512"] == 2 * work["AVX2"]
    assert work["AVX-512 BF16"] == 2 * work["AVX-512"]
    assert work["AVX-512 VNNI"] == 4 * work["AVX-512"]
    assert work["AMX BF16"] == 4 * 2 * 16 * 16 * 32
    assert work["AMX INT8"] == 2 * work["AMX BF16"]


@pytest.mark.parametrize("size", [1, 4096, 5000])
def test_read_loop_reads_its_whole_working_set(size):
    lanes, features = widest_lanes(host_features())
    loop = CompiledLoop(read(lanes, size), "x86-64", features)
    values = np.ones(loop.work_per_round // 4 + 16, np.float32)
    start = -values.ctypes.data % 64 // 4
    values[start : start + loop.work_per_round // 4] = 1.0
    address = values[start:].ctypes.data
    loop(address, 3)
    # The sums of the streams replace the first vectors; together they hold three sweeps.
    total = values[start : start + 8 * lanes].sum()
    assert total == 3 * loop.work_per_round / 4
    assert loop.work_per_round == max(size // (32 * lanes), 1) * 32 * lanes


def test_sets_are_offered_where_every_feature_is_present():
    nothing = [isa.name for isa in available({})]
    assert nothing == ["SSE2"]
    half = [isa.name for isa in available({"avx2": True, "fma": True, "amx-tile": True})]
    assert half == ["SSE2", "AVX2"]
    assert widest_lanes({}) == (4, "")
    assert widest_lanes({"avx2": True}) == (8, "+avx2")

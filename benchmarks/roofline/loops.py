"""Machine-code loops that do nothing but arithmetic or nothing but loading.

Every loop has the signature `void (ptr data, i64 rounds)`. A round of an arithmetic loop runs one
instruction per accumulator, all operands in registers, with enough independent accumulators to
hide the latency; a round of a read loop sums a whole working set that starts at `data`. Results are
stored back to `data`, so that no compiler may drop the work.
"""

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
POINTER = ir.PointerType()

ACCUMULATORS = 12
READ_STREAMS = 8
DATA_BYTES = 4096

_library_numbers = itertools.count()


class BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite carries no type information
    """The bfloat type, which llvmlite's typed layer does not name."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


@dataclass(frozen=True)
class Loop:
    """One generated loop: its module, and the operations or bytes of one of its rounds."""

    module: ir.Module
    work_per_round: int


def multiply_add(lanes: int, *, fused: bool) -> Loop:
    """fp32 multiply-add on vectors of `lanes`; two instructions where the set has no FMA."""
    vector = ir.VectorType(F32, lanes)
    module, function, builder = _function()
    x, y = (_load(builder, vector, function.args[0], index) for index in range(2))
    fma = _intrinsic(module, f"llvm.fma.v{lanes}f32", vector, [vector] * 3)

    def body(_: Any, sums: Sequence[Any]) -> list[Any]:
        if fused:
            return [builder.call(fma, [total, x, y]) for total in sums]
        return [builder.fadd(builder.fmul(total, x), y) for total in sums]

    _accumulate(builder, function, _start(builder, vector, function), body)
    return Loop(module, 2 * lanes * ACCUMULATORS)


def dot_bf16(lanes: int) -> Loop:
    """vdpbf16ps: each fp32 lane adds two products of bf16 pairs."""
    vector = ir.VectorType(F32, lanes)
    pairs = ir.VectorType(BFloat16(), 2 * lanes)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return _dot(name, vector, pairs, 4 * lanes * ACCUMULATORS)


def dot_int8(lanes: int) -> Loop:
    """vpdpbusd: each int32 lane adds four products of unsigned and signed bytes."""
    vector = ir.VectorType(I32, lanes)
    quads = ir.VectorType(I8, 4 * lanes)
    return _dot(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", vector, quads, 8 * lanes * ACCUMULATORS)


def tiles(instruction: str, operations_per_tile: int) -> Loop:
    """AMX: a 2x2 block of accumulator tiles, all operands resident in tile registers."""
    module, function, builder = _function()
    data, _ = function.args
    nothing = ir.VoidType()
    configure = _intrinsic(module, "llvm.x86.ldtilecfg", nothing, [POINTER])
    clear = _intrinsic(module, "llvm.x86.tilezero", nothing, [I8])
    release = _intrinsic(module, "llvm.x86.tilerelease", nothing, [])
    multiply = _intrinsic(module, f"llvm.x86.{instruction}", nothing, [I8, I8, I8])
    builder.call(configure, [data])
    for tile in range(8):
        builder.call(clear, [I8(tile)])

    def body(_: Any, __: Sequence[Any]) -> list[Any]:
        for c, a, b in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
            builder.call(multiply, [I8(c), I8(a), I8(b)])
        return []

    _counted(builder, function, function.args[1], 1, [], body)
    builder.call(release, [])
    builder.ret_void()
    return Loop(module, 4 * operations_per_tile)


def read(lanes: int, working_set: int) -> Loop:
    """Sum of the fp32 vectors in `working_set` bytes, rounded down to whole groups of streams."""
    vector = ir.VectorType(F32, lanes)
    module, function, builder = _function()
    data = function.args[0]
    vectors = max(READ_STREAMS, working_set // (4 * lanes) // READ_STREAMS * READ_STREAMS)

    def add(index: Any, sums: Sequence[Any]) -> list[Any]:
        return [
            builder.fadd(total, _load(builder, vector, data, builder.add(index, I64(stream))))
            for stream, total in enumerate(sums)
        ]

    def sweep(_: Any, sums: Sequence[Any]) -> list[Any]:
        return _counted(builder, function, I64(vectors), READ_STREAMS, sums, add)

    _accumulate(builder, function, [ir.Constant(vector, None)] * READ_STREAMS, sweep)
    return Loop(module, 4 * lanes * vectors)


class CompiledLoop:
    """A loop in machine code for one target; calling it releases the GIL."""

    def __init__(self, loop: Loop, cpu: str, features: str) -> None:
        self._jit = llvm.create_lljit_compiler(target_machine(cpu, features))
        self._library = (
            llvm.JITLibraryBuilder()
            .add_ir(loop.module)
            .export_symbol("loop")
            .link(self._jit, f"loop_{next(_library_numbers)}")
        )
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        self._function = prototype(self._library["loop"])
        self.work_per_round = loop.work_per_round

    def __call__(self, data: int, rounds: int) -> None:
        """Run `rounds` rounds on the memory at address `data`."""
        self._function(data, rounds)


def target_machine(cpu: str, features: str) -> Any:
    """LLVM target machine for an x86-64 CPU with the given feature string."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


def _function() -> tuple[ir.Module, ir.Function, ir.IRBuilder]:
    module = ir.Module("roofline")
    module.triple = "x86_64-unknown-linux-gnu"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), "loop")
    return module, function, ir.IRBuilder(function.append_basic_block("entry"))


def _intrinsic(module: ir.Module, name: str, result: Any, arguments: list[Any]) -> ir.Function:
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def _load(builder: ir.IRBuilder, vector: ir.VectorType, data: Any, index: Any) -> Any:
    offset = index if isinstance(index, ir.Value) else I64(index)
    address = builder.gep(data, [offset], source_etype=vector)
    return builder.load(address, typ=vector, align=16)


def _start(builder: ir.IRBuilder, vector: ir.VectorType, function: ir.Function) -> list[Any]:
    """First accumulator values, from different addresses: equal chains could be merged into one."""
    return [_load(builder, vector, function.args[0], index) for index in range(ACCUMULATORS)]


def _dot(name: str, vector: ir.VectorType, packed: ir.VectorType, work: int) -> Loop:
    module, function, builder = _function()
    a, b = (_load(builder, packed, function.args[0], index) for index in range(2))
    dot = _intrinsic(module, name, vector, [vector, packed, packed])

    def body(_: Any, sums: Sequence[Any]) -> list[Any]:
        return [builder.call(dot, [total, a, b]) for total in sums]

    _accumulate(builder, function, _start(builder, vector, function), body)
    return Loop(module, work)


def _accumulate(
    builder: ir.IRBuilder,
    function: ir.Function,
    start: Sequence[Any],
    body: Callable[[Any, Sequence[Any]], list[Any]],
) -> None:
    data, rounds = function.args
    for index, value in enumerate(_counted(builder, function, rounds, 1, start, body)):
        address = builder.gep(data, [I64(index)], source_etype=value.type)
        builder.store(value, address, align=16)
    builder.ret_void()


def _counted(
    builder: ir.IRBuilder,
    function: ir.Function,
    count: Any,
    step: int,
    start: Sequence[Any],
    body: Callable[[Any, Sequence[Any]], list[Any]],
) -> list[Any]:
    entry = builder.block
    block = function.append_basic_block("body")
    done = function.append_basic_block("done")
    builder.branch(block)
    builder.position_at_end(block)
    index = builder.phi(I64)
    index.add_incoming(I64(0), entry)
    carried = [builder.phi(value.type) for value in start]
    for phi, value in zip(carried, start, strict=True):
        phi.add_incoming(value, entry)
    results = body(index, carried)
    latch = builder.block
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, latch)
    following = builder.add(index, I64(step))
    index.add_incoming(following, latch)
    builder.cbranch(builder.icmp_signed("<", following, count), block, done)
    builder.position_at_end(done)
    return results

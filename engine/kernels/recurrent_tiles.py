"""Register tiles of recurrent layers: rows of states times panels of recurrent weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import F32, I32, I64, PTR, KernelBuilder, Val, Variable
from engine.codegen.target import Target
from engine.kernels.strips import Lanes
from engine.kernels.tile import multiply

PASSES: Final = {"lstm": (4,), "gru": (2, 1), "gru_linear": (3,), "rnn": (1,)}
"""Gates whose recurrent sums each pass over the panels computes."""

_CHAINS: Final = 4
"""Accumulators that keep up with L2 for one row: a multiply-add per cycle, and so 64 bytes of
weights on the widest vectors, where L2 gives about 40. More would read more panels at a time: eight
in four streams took up to 15 % longer at hidden size 256 on a Xeon of the Cascade Lake
generation."""

_UNROLL: Final = 4
"""States that the tile of one row takes per iteration."""

_CHUNK_BYTES: Final = 16 << 10
"""Weights that stay in L1 while several bands of rows use them: half of the smallest L1."""

_NEAR: Final = 1024
FAR: Final = 4096
"""How far ahead of their use, in bytes, several rows fetch weights into L1 and L2. Measured on a
Xeon of the Cascade Lake generation: 256 to 4096 differ by less than 5 %, at hidden sizes of 512 and
more they gain 10 to 25 % over none."""

LINES: Final = 4
"""Cache lines that a tile fetches into L2 while it takes `UNROLL` states."""


def together(gates: int) -> int:
    """Gates of a pass over `gates` whose weights lie side by side: a part of the panel.

    Two of four: a tile of two vectors may be twelve rows tall, one of four only six. Eight rows
    then read every weight once while they multiply, where two tiles of four rows in turn waited for
    weights and found them in L1.
    """
    return 2 if gates == 4 else gates


def single_tiles(target: Target, gates: int) -> list[int]:
    """Panels that one row may take before gates are combined, fewest first.

    At least two, since gates are combined in pairs of vectors.
    """
    return [1 << shift for shift in range(max(2, at_once(target, gates)).bit_length())]


def at_once(target: Target, gates: int) -> int:
    """Panels that one row reads side by side."""
    return min(-(-_CHAINS // gates), max(1, (target.registers - 2) // gates))


def band_rows(target: Target, gates: int) -> int:
    """Most rows of a tile of several rows."""
    return target.tile_rows(together(gates))


def chunk_steps(target: Target, gates: int) -> int:
    """States whose weights, for a part of a panel, several bands of rows share while in L1."""
    return max(8, _CHUNK_BYTES // (together(gates) * target.vector_bytes))


def sums_bytes(cell: str, target: Target, rows: int = 1) -> int:
    """Bytes that the sums of `rows` rows take per panel group, the widest of all passes."""
    widest = max(gates * single_tiles(target, gates)[-1] for gates in PASSES[cell])
    return rows * widest * target.vector_bytes


def emit_single(k: KernelBuilder, lanes: Lanes, gates: int, panels: int) -> Any:
    """Function that multiplies one row of states with some panels of weights.

    Arguments: state, weights, bytes between panels, sums [panels, gates, lanes] to be written, and
    number of states. Every weight is the memory operand of an instruction.
    """
    width = together(gates)
    function = k.local_function(f"single_{gates}_{panels}", [PTR, PTR, I64, PTR, I64])
    with k.within(function) as (state, weights, panel, sums, length):
        part = length * (width * lanes.bytes)
        parts, side = range(gates // width), at_once(k.target, gates)
        for first in range(0, panels, side):
            chosen = range(first, min(panels, first + side))
            streams = [weights + panel * p + part * q for p in chosen for q in parts]
            totals = _multiply_row(k, lanes, state, streams, length, width)
            for index, total in enumerate(totals):
                k.store(total.get(), sums + (first * gates + index) * lanes.bytes)
        k.ret()
    return function


def _multiply_row(
    k: KernelBuilder, lanes: Lanes, state: Val, streams: Sequence[Val], length: Val, width: int
) -> list[Variable]:
    """Sums over one row times streams [length, width, lanes], stream by stream."""
    totals = [[k.variable(lanes.fill(0)) for _ in range(width)] for _ in streams]
    row, places = k.variable(state), [k.variable(stream) for stream in streams]
    with k.loop(0, length, _UNROLL):
        for step in range(_UNROLL):
            value = lanes.splat(k.load(row.get() + step * 4, F32))
            for place, sums in zip(places, totals, strict=True):
                for gate, total in enumerate(sums):
                    at = place.get() + (step * width + gate) * lanes.bytes
                    total.set(k.fma(value, k.load(at, lanes.kind), total.get()))
        row.add(_UNROLL * 4)
        for place in places:
            place.add(_UNROLL * width * lanes.bytes)
    return [total for sums in totals for total in sums]


def emit_band(k: KernelBuilder, lanes: Lanes, gates: int, rows: int) -> Any:
    """Function that multiplies `rows` rows of states with a part of a panel.

    Arguments: states, bytes between rows, weights, sums [rows, gates, lanes] from the part's first
    gate on, number of states, whether the sums are continued (1) or begin at zero (0), and weights
    to be fetched into L2.
    """
    width = together(gates)
    kinds = [PTR, I64, PTR, PTR, I64, I64, PTR]
    function = k.local_function(f"band_{gates}_{rows}", kinds)
    with k.within(function) as (states, pitch, weights, sums, length, resume, later):
        totals = [[k.variable(lanes.fill(0)) for _ in range(width)] for _ in range(rows)]
        places = [
            (total, (row * gates + gate) * lanes.bytes)
            for row, totals_ in enumerate(totals)
            for gate, total in enumerate(totals_)
        ]
        with k.when(resume.differs(0)):
            for total, place in places:
                total.set(k.load(sums + place, lanes.kind))
        weight, ahead = k.variable(weights), k.variable(later)
        multiply(k, states, pitch, weight, length, totals, ahead, k.const(_NEAR), LINES)
        for total, place in places:
            k.store(total.get(), sums + place)
        k.ret()
    return function


def prefetch(k: KernelBuilder, pointer: Val) -> None:
    """Ask for the cache line at `pointer` to be read into L1."""
    read, near, data = k.const(0, I32), k.const(3, I32), k.const(1, I32)
    k.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, read, near, data])

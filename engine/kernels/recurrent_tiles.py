"""Register tiles of recurrent layers: rows of states times panels of recurrent weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import F32, I32, I64, PTR, KernelBuilder, Val, Variable
from engine.codegen.target import Target
from engine.kernels.strips import Lanes
from engine.kernels.tile import multiply

PASSES: Final = {"lstm": (4,), "gru": (2, 1), "gru_linear": (3,), "rnn": (1,)}
"""Gates whose recurrent sums each pass over the panels computes."""

_CHAINS: Final = 8
"""Independent accumulators that hide the latency of multiply-add at full speed."""

_CHUNK_BYTES: Final = 16 << 10
"""Weights that stay in L1 while several bands of rows use them: half of the smallest L1."""

_NEAR: Final = 1024
_FAR: Final = 4096
"""How far ahead of their use, in bytes, several rows fetch weights into L1 and L2. Measured on a
Xeon of the Cascade Lake generation: 256 to 4096 differ by less than 5 %, at hidden sizes of 512 and
more they gain 10 to 25 % over none."""


@dataclass(frozen=True)
class Tile:
    """A register tile: rows of states times panels of weights."""

    rows: int
    panels: int


def single_tiles(target: Target, gates: int) -> list[Tile]:
    """Tiles of one row, narrowest first: as many panels as hide the latency, and their halves."""
    wanted = max(1, _CHAINS // gates)
    panels = min(wanted, max(1, (target.registers - 2) // gates))
    return [Tile(1, 1 << shift) for shift in range(panels.bit_length())]


def several_tiles(target: Target, gates: int) -> list[Tile]:
    """Tiles of two and more rows of one panel, lowest first."""
    return [Tile(rows, 1) for rows in range(2, target.tile_rows(gates) + 1)]


def chunk_steps(target: Target, gates: int) -> int:
    """States whose weights, for a panel, several bands of rows share while in L1."""
    return max(8, _CHUNK_BYTES // (gates * target.vector_bytes))


def sums_bytes(cell: str, target: Target, rows: int = 1) -> int:
    """Bytes that the sums of `rows` rows take per panel group, the widest of all passes."""
    return rows * max(
        gates * tile.panels * target.vector_bytes
        for gates in PASSES[cell]
        for tile in (*single_tiles(target, gates), *several_tiles(target, gates))
    )


def emit_tile(k: KernelBuilder, lanes: Lanes, gates: int, tile: Tile) -> Any:
    """Function that multiplies a tile's rows of states with its panels of weights.

    Arguments: states, bytes between rows, weights, bytes between panels, sums
    [rows, panels, gates, lanes] to be written, number of states, and whether the sums are continued
    (1) or begin at zero (0).
    """
    columns = [(p, g) for p in range(tile.panels) for g in range(gates)]
    name = f"tile_{gates}_{tile.rows}_{tile.panels}"
    function = k.local_function(name, [PTR, I64, PTR, I64, PTR, I64, I64])
    with k.within(function) as (states, pitch, weights, panel, sums, length, resume):
        totals = [[k.variable(lanes.fill(0)) for _ in columns] for _ in range(tile.rows)]
        flat = [total for row in totals for total in row]
        with k.when(resume.differs(0)):
            for index, total in enumerate(flat):
                total.set(k.load(sums + index * lanes.bytes, lanes.kind))
        if tile.rows > 1:
            weight, ahead = k.variable(weights), k.variable(weights + _FAR)
            multiply(k, states, pitch, weight, length, totals, ahead, k.const(_NEAR))
        else:
            _single(k, lanes, gates, columns, (states, weights, panel, length), totals[0])
        for index, total in enumerate(flat):
            k.store(total.get(), sums + index * lanes.bytes)
        k.ret()
    return function


def _single(
    k: KernelBuilder,
    lanes: Lanes,
    gates: int,
    columns: list[tuple[int, int]],
    arguments: tuple[Val, Val, Val, Val],
    totals: list[Variable],
) -> None:
    """Multiply one row with panels that lie apart; every weight is an instruction's operand."""
    states, weights, panel, length = arguments
    unroll = 4
    state, weight = k.variable(states), k.variable(weights)
    with k.loop(0, length, unroll):
        for step in range(unroll):
            spread = lanes.splat(k.load(state.get() + step * 4, F32))
            for total, (p, g) in zip(totals, columns, strict=True):
                at = weight.get() + panel * p + (step * gates + g) * lanes.bytes
                total.set(k.fma(spread, k.load(at, lanes.kind), total.get()))
        state.add(unroll * 4)
        weight.add(unroll * gates * lanes.bytes)


def prefetch(k: KernelBuilder, pointer: Val) -> None:
    """Ask for the cache line at `pointer` to be read into L1."""
    read, near, data = k.const(0, I32), k.const(3, I32), k.const(1, I32)
    k.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, read, near, data])

"""Register tiles of recurrent layers: rows of states times panels of recurrent weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import F32, I32, I64, PTR, KernelBuilder, Val
from engine.codegen.target import Target
from engine.kernels.strips import Lanes

PASSES: Final = {"lstm": (4,), "gru": (2, 1), "gru_linear": (3,), "rnn": (1,)}
"""Gates whose recurrent sums each pass over the panels computes."""

_CHAINS: Final = 8
"""Independent accumulators that hide the latency of multiply-add at full speed."""

_CHUNK_BYTES: Final = 16 << 10
"""Weights that stay in L1 while several bands of rows use them: half of the smallest L1."""


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
    """Tiles of two and more rows, lowest first, all of the same number of panels.

    Accumulators, the weights of one step and a broadcast must fit the registers; more than eight
    rows have no registers for their pointers. Taking four gates in two halves allows more rows, but
    has not run faster with 16 registers or 32 (measured on a Xeon at 2.5 GHz, hidden sizes 64-512).
    """
    panels = 2 if gates == 1 else 1
    width = gates * panels
    most = min(8, (target.registers - width - 1) // width)
    return [Tile(rows, panels) for rows in range(2, most + 1)]


def chunk_steps(target: Target, gates: int, panels: int) -> int:
    """States whose weights, for a tile's panels, several bands of rows share while in L1."""
    return max(8, _CHUNK_BYTES // (gates * panels * target.vector_bytes))


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
    rows, panels = tile.rows, tile.panels
    unroll = 4 if rows * panels * gates <= 12 else 2
    name = f"tile_{gates}_{rows}_{panels}"
    function = k.local_function(name, [PTR, I64, PTR, I64, PTR, I64, I64])
    with k.within(function) as (states, pitch, weights, panel, sums, length, resume):
        row_shifts = [pitch * row for row in range(rows)]
        panel_shifts = [panel * p for p in range(panels)]
        columns = [(p, g) for p in range(panels) for g in range(gates)]
        totals = [[k.variable(lanes.fill(0)) for _ in columns] for _ in range(rows)]
        flat = [total for row in totals for total in row]
        with k.when(resume.differs(0)):
            for index, total in enumerate(flat):
                total.set(k.load(sums + index * lanes.bytes, lanes.kind))
        state, weight = k.variable(states), k.variable(weights)
        with k.loop(0, length, unroll):
            for step in range(unroll):
                factors = [
                    k.load(
                        weight.get() + panel_shifts[p] + (step * gates + g) * lanes.bytes,
                        lanes.kind,
                    )
                    for p, g in columns
                ]
                for row in range(rows):
                    value = k.load(state.get() + row_shifts[row] + step * 4, F32)
                    spread = lanes.splat(value)
                    for total, factor in zip(totals[row], factors, strict=True):
                        total.set(k.fma(spread, factor, total.get()))
            state.add(unroll * 4)
            weight.add(unroll * gates * lanes.bytes)
        for index, total in enumerate(flat):
            k.store(total.get(), sums + index * lanes.bytes)
        k.ret()
    return function


def prefetch(k: KernelBuilder, pointer: Val) -> None:
    """Ask for the cache line at `pointer` to be read into L1."""
    read, near, data = k.const(0, I32), k.const(3, I32), k.const(1, I32)
    k.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, read, near, data])

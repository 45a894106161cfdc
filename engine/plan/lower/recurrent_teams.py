"""How threads share a recurrent layer: by directions, by rows, or by hidden columns.

Rows in one block share every weight that is read; members of a team each read their own columns
of the weights, but meet once per pass and step. Which is cheaper is predicted from sizes alone.
None of it changes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.plan.lowering import Lowering

MEETING_NS: Final = 400
"""Price of a meeting: the last member's word reaches the others.
Measured on two cores of a Xeon at 2.5 GHz as what a step of 64 hidden columns grows by."""

_FETCHED_BYTES_PER_NS: Final = 5
"""States per nanosecond that a member reads which another one has just written."""

_KEPT_BYTES: Final = 7 << 17
"""Weights that a core finds in its own cache again: most of the 1 MiB that a core has at least."""

_NEAR_BYTES_PER_NS: Final = 64
_FAR_BYTES_PER_NS: Final = 20
"""Weights read per nanosecond by one core from its own cache, and from the shared one."""

_PRODUCTS_PER_LANE_NS: Final = 4
"""Multiply-adds per nanosecond and lane of a vector."""

_GATE_NS: Final = 8
"""Nanoseconds per vector and gate to apply activations. These four fit times per step on a Xeon of
the Cascade Lake generation at 2.5 GHz within a fifth: LSTM, hidden sizes 128 to 512, batches 1 to
32 (`python -m benchmarks.recurrent`); not tested on other machines."""


@dataclass(frozen=True)
class LayerSize:
    """What a layer's time depends on: rows, directions, padded hidden columns, gates, lanes of a
    vector, and passes over the weights per step."""

    rows: Dim
    directions: int
    padded: int
    gates: int
    lanes: int
    passes: int


@dataclass(frozen=True)
class Teams:
    """Rows per block and blocks of a direction, members of a block's team, and the predicted
    nanoseconds of one member's step."""

    block: Dim
    blocks: Dim
    members: Dim
    cost: Dim


def split(size: LayerSize, low: Lowering) -> Teams:
    """The cheapest split over the threads of `low`."""
    threads = max(1, low.threads // size.directions)
    best = _teams(size, threads, 1)
    members = 2
    while members <= min(threads, size.padded // size.lanes):
        other = _teams(size, threads, members)
        # 1 where the other is cheaper.
        cheaper = minimum(best.cost // (other.cost + 1), 1)
        best = Teams(
            block=maximum(_chosen(best.block, other.block, cheaper), 1),
            blocks=_chosen(best.blocks, other.blocks, cheaper),
            members=maximum(_chosen(best.members, other.members, cheaper), 1),
            cost=minimum(best.cost, other.cost),
        )
        members *= 2
    return best


def _chosen(first: Dim, second: Dim, which: Dim) -> Dim:
    """The first where `which` is 0, the second where it is 1."""
    return first + which * (second - first)


def _teams(size: LayerSize, threads: int, members: int) -> Teams:
    """Teams of `members`, the rows divided over as many teams as the threads make."""
    rows = maximum(size.rows, 1)
    # At least one by its form, not only by its value: dims divide by nothing that may be negative.
    block = maximum(ceildiv(rows, minimum(rows, max(1, threads // members))), 1)
    blocks = ceildiv(size.rows, block)
    share = -(-size.padded // size.lanes // members) * size.lanes
    weights = size.padded * share * size.gates
    kept = min(weights * 4, _KEPT_BYTES)
    reading = kept // _NEAR_BYTES_PER_NS + (weights * 4 - kept) // _FAR_BYTES_PER_NS
    products = block * weights // (_PRODUCTS_PER_LANE_NS * size.lanes)
    gates = block * (share // size.lanes * size.gates * _GATE_NS)
    meeting: Dim | int = 0
    if members > 1:
        fetched = block * ((size.padded - share) * 4)
        meeting = fetched // _FETCHED_BYTES_PER_NS + MEETING_NS * size.passes
    # Reading and multiplying overlap, but for about a third of the shorter one.
    cost = maximum(products, reading) + minimum(products, reading) // 3 + gates + meeting
    return Teams(block, blocks, Dim.of(members), cost)

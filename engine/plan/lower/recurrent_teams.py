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
"""Price of a meeting: the last member's word, and the states that it computed, reach the others.
Measured on two cores of a Xeon at 2.5 GHz as what a step of 64 hidden columns grows by."""

_L2_BYTES: Final = 1 << 20
"""Private cache that a core is expected to have at least."""

_L2_BYTES_PER_NS: Final = 64
_L3_BYTES_PER_NS: Final = 12
"""Weights read per nanosecond by one core from its own cache and from the shared one."""

_GATE_NS: Final = 2
"""Nanoseconds per vector and gate to apply activations."""


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
    speed = _L2_BYTES_PER_NS if weights * 4 <= _L2_BYTES else _L3_BYTES_PER_NS
    products = block * weights // (8 * size.lanes)
    gates = block * (share // size.lanes * size.gates * _GATE_NS)
    meeting = MEETING_NS * size.passes if members > 1 else 0
    cost = maximum(products, weights * 4 // speed) + gates + meeting
    return Teams(block, blocks, Dim.of(members), cost)

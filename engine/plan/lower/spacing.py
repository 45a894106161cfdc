"""Activations whose rows lie apart, so that they do not fall into the same sets of a cache.

A product reads and writes a dozen rows at once. Where rows are a multiple of 2048 bytes long, as
with 512, 1024 or 3072 channels, they share two sets of the first-level cache or one, which hold
eight lines each: rows of A would have to be copied first, and those of C push each other out. So a
value that only products read is written with one cache line between its rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.ir import Graph, Node, Value
from engine.plan.lowering import Lowering

_SHARED: Final = 2048
"""Bytes between rows, or a multiple, from which a dozen of them do not fit the sets they share."""

_PRODUCTS: Final = ("MatMul", "packhorse.MatMul", "packhorse.Conv")
_LARGEST_RANK: Final = 4


def request_gaps(graph: Graph, low: Lowering) -> None:
    """Ask for gaps behind the rows of values that products write and nothing but products reads."""
    readers = graph.consumers()
    kept = {id(value) for value in graph.outputs}
    for node in graph.nodes:
        if node.key not in _PRODUCTS:
            continue
        for value in node.outputs:
            found = readers.get(id(value), [])
            if id(value) in kept or not found or not _long_rows(value):
                continue
            if all(_steps_over(reader, value) for reader in found):
                low.gaps.add(id(value))


def _long_rows(value: Value) -> bool:
    if (
        value.dtype != np.float32
        or value.shape is None
        or not 2 <= len(value.shape) <= _LARGEST_RANK
    ):
        return False
    columns = value.shape[-1]
    return columns.is_constant and columns.value > 0 and columns.value * 4 % _SHARED == 0


def _steps_over(node: Node, value: Value) -> bool:
    """Whether a reader takes any stride between rows: a product by constant weights does."""
    if node.key not in _PRODUCTS or node.inputs[1] is value:
        return False
    weights = node.inputs[1]
    return weights is not None and weights.data is not None

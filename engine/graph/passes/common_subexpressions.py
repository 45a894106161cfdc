"""Equal computations are done once.

Two nodes of one operator, version and attributes that read the same values compute the same, so the
later one's readers may read the earlier one's result. Exporters repeat masks, positions and shape
arithmetic in every layer.

Preconditions: one output, no subgraphs, no random operator. Constants are the same when they are
one value, or small and equal to the byte.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np

from engine.graph.ir import Graph, Node, Value, subgraphs
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_RANDOM: Final = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)
_SMALL: Final = 4096
"""Bytes up to which constants are compared by content."""


def common_subexpressions(graph: Graph) -> PassReport:
    """Merge equal nodes in the graph and, each for itself, its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        first: dict[Hashable, Node] = {}
        for node in rewriter.nodes():
            key = _key(node)
            if key is None:
                continue
            earlier = first.setdefault(key, node)
            if earlier is not node:
                rewriter.bypass(node, earlier.outputs[0])
        changes += rewriter.finish()
    return PassReport("common_subexpressions", changes)


def _key(node: Node) -> Hashable:
    """What decides the result of a node; None where it must not be merged."""
    if node.op in _RANDOM or len(node.outputs) != 1 or subgraphs(node):
        return None
    if node.outputs[0].kind != "tensor" or node.outputs[0].is_constant:
        return None
    attributes = tuple(sorted((name, _content(a)) for name, a in node.attributes.items()))
    return (node.key, node.version, tuple(_identity(v) for v in node.inputs), attributes)


def _identity(value: Value | None) -> Hashable:
    if value is None:
        return None
    data = value.data
    if data is not None and data.dtype != object and data.nbytes <= _SMALL:
        return (data.dtype.str, data.shape, data.tobytes())
    return id(value)


def _content(attribute: Any) -> str:
    """Text that is the same for equal attributes only."""
    if isinstance(attribute, np.ndarray):
        if attribute.dtype == object:
            return f"array {attribute.shape} {attribute.tolist()!r}"
        return f"array {attribute.dtype.str} {attribute.shape} {attribute.tobytes().hex()}"
    if isinstance(attribute, (list, tuple)):
        return f"[{', '.join(map(_content, attribute))}]"
    if isinstance(attribute, (bool, int, float, str, bytes, type(None))):
        return f"{type(attribute).__name__} {attribute!r}"
    return f"object {id(attribute)}"

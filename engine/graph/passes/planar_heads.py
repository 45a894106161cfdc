"""Narrow 1x1 convolutions that leave the channels-last network write channels-first at once.

For ``y = Transpose(Conv(x))`` to channels-first, with a 1x1 window of stride 1, ``packhorse.Heads``
computes y from x. Where `siblings` joined several, ``Split`` between them goes, too: the outputs
are parted as they are written. A softmax over the channels commutes with the transposition:
``Transpose(Softmax(c, channels)) = Softmax(Transpose(c), 1)``.

Preconditions: ``packhorse.Conv`` over two spatial axes, no groups, no padding, constant weights, an
epilogue that reads constants alone; at most `MOST` channels in all; every result is read by its
transposition, or its softmax and that by its transposition, and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.passes.transposes import permutation

MOST: Final = 12
"""Channels up to which sums over pixels fill vectors better than sums over channels do."""

_TO_FIRST: Final = [0, 3, 1, 2]


def planar_heads(graph: Graph) -> PassReport:
    """Rewrite the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "packhorse.Conv" and _is_head(node):
                _rewrite(rewriter, node)
        changes += rewriter.finish()
    return PassReport("planar_heads", changes, [])


def _is_head(node: Node) -> bool:
    weight, extras = node.inputs[1], node.inputs[2:]
    if weight is None or weight.data is None or weight.data.shape[2:] != (1, 1):
        return False
    if len(weight.data) > MOST or node.attribute("group", 1) != 1:
        return False
    if set(node.attribute("strides") or [1]) != {1} or any(node.attribute("pads") or [0]):
        return False
    constant = all(value is None or value.data is not None for value in extras)
    float32 = node.outputs[0].dtype == np.float32
    return constant and float32 and "tile" not in node.attribute("access", [])


@dataclass(frozen=True)
class _Way:
    """How a result leaves: perhaps a softmax, then the transposition."""

    softmax: Node | None
    transposition: Node


def _way(rewriter: Rewriter, value: Value) -> _Way | None:
    reader = rewriter.only_reader(value)
    softmax = None
    if reader is not None and reader.key == "Softmax" and reader.version >= 13:
        if reader.attribute("axis", -1) not in (-1, 3):
            return None
        softmax, reader = reader, rewriter.only_reader(reader.outputs[0])
    if reader is None or reader.key != "Transpose" or permutation(reader) != _TO_FIRST:
        return None
    return _Way(softmax, reader)


def _rewrite(rewriter: Rewriter, node: Node) -> None:
    split = rewriter.only_reader(node.outputs[0])
    if split is not None and not _parts_channels(split):
        split = None
    parts = node.outputs if split is None else split.outputs
    ways = [way for way in (_way(rewriter, value) for value in parts) if way is not None]
    if len(ways) < len(parts):
        return
    outputs, made = [], []
    for way in ways:
        result = way.transposition.outputs[0]
        if way.softmax is None:
            outputs.append(result)
            continue
        planar = rewriter.value(f"{way.softmax.label}.planar", result)
        outputs.append(planar)
        attributes = dict(way.softmax.attributes, axis=1)
        version, name = way.softmax.version, way.softmax.name
        made.append(Node("Softmax", [planar], [result], attributes, "", version, name))
    heads = Node(
        "Heads", node.inputs, outputs, dict(node.attributes), OURS, node.version, node.name
    )
    for way in ways:
        rewriter.remove(way.transposition)
        if way.softmax is not None:
            rewriter.remove(way.softmax)
    if split is not None:
        rewriter.remove(split)
    rewriter.replace(node, [heads, *made])


def _parts_channels(node: Node) -> bool:
    """Whether a node parts the channels into constant numbers of them."""
    if node.key != "Split" or node.attribute("axis", 0) not in (-1, 3):
        return False
    shapes = [value.shape for value in node.outputs]
    return all(shape is not None and _constant(shape[-1]) for shape in shapes)


def _constant(dim: Dim) -> bool:
    return dim.is_constant and dim.value > 0

"""Convolutions of few channels read their input as it is, and take the pooling behind them along.

The first layer of an image network has one channel or three. For it,
``packhorse.Conv(transpose(x))`` is ``packhorse.PlaneConv(x)``, which vectorises over columns and
does not care how x is laid out; and ``packhorse.MaxPool`` of 2 x 2 outputs that do not overlap is
taken in registers: ``MaxPool(PlaneConv(x)) = PlaneConv(x, pool=2)``.

Preconditions: two spatial axes, at most `MOST` channels, no groups or dilation, constant weights,
padding that is known, an epilogue that reads constants per channel alone; the pooling is the only
reader. It pays where output channels are few, too, or where a pooling joins.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.ir import OURS, Graph, Node
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.passes.transposes import permutation

MOST: Final = 4
"""Channels of what counts as an image."""

_FEW_OUTPUTS: Final = 32
"""Output channels up to which it is faster without pooling, too. On a Cascade Lake Xeon: 64 outputs
0.95 to 1.09 times as fast as channels-last, 32 outputs 1.04 to 1.15, 24 and fewer 1.14 to 1.64;
with pooling 2.6 (10 outputs) to 3.4 times (64)."""

_TO_LAST: Final = [0, 2, 3, 1]


def few_channels(graph: Graph) -> PassReport:
    """Rewrite the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "packhorse.Conv" and _is_image(node):
                _rewrite(rewriter, node)
        changes += rewriter.finish()
    return PassReport("few_channels", changes, [])


def _is_image(node: Node) -> bool:
    weight, extras = node.inputs[1], node.inputs[2:]
    if weight is None or weight.data is None or weight.data.ndim != 4:
        return False
    if weight.data.shape[1] > MOST or node.attribute("group", 1) != 1:
        return False
    steps = [*(node.attribute("strides") or [1, 1]), *(node.attribute("dilations") or [1, 1])]
    known = node.attribute("auto_pad", "NOTSET") == "NOTSET"
    padded = node.attribute("pads") or [0] * 4
    if not known or min(padded) < 0 or max(steps[:2]) > 2 or steps[2:] != [1, 1]:
        return False
    access = node.attribute("access", [])
    constant = all(value is None or value.data is not None for value in extras)
    return constant and "tile" not in access and node.outputs[0].dtype == np.float32


def _rewrite(rewriter: Rewriter, node: Node) -> None:
    weight, source = node.inputs[1], node.inputs[0]
    assert weight is not None
    assert weight.data is not None
    assert source is not None
    pooling = rewriter.only_reader(node.outputs[0])
    if pooling is not None and not _is_plain_pooling(pooling):
        pooling = None
    if pooling is None and weight.data.shape[0] > _FEW_OUTPUTS:
        return
    axis = 3
    producer = source.producer
    if producer is not None and producer.key == "Transpose" and permutation(producer) == _TO_LAST:
        assert producer.inputs[0] is not None
        source, axis = producer.inputs[0], 1
    attributes = dict(node.attributes, channel_axis=axis, pool=1 if pooling is None else 2)
    inputs = [source, *node.inputs[1:]]
    made = Node("PlaneConv", inputs, [], attributes, OURS, node.version, node.name)
    if pooling is None:
        rewriter.substitute(node, made)
        return
    rewriter.substitute(pooling, made)
    rewriter.remove(node)


def _is_plain_pooling(node: Node) -> bool:
    if node.key != "packhorse.MaxPool" or any(output.name for output in node.outputs[1:]):
        return False
    window = list(node.attribute("kernel_shape")), list(node.attribute("strides") or [1, 1])
    flat = list(node.attribute("dilations") or [1, 1]) == [1, 1]
    padded = any(node.attribute("pads") or [0])
    plain = node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return window == ([2, 2], [2, 2]) and flat and not padded and plain

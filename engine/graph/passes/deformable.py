"""Deformable convolution as samples and a product.

``DeformConv(x, w, o, b, m) = DeformedColumns(x, o, m) w' + b``: the columns hold, for each position
of the result, what every tap of the window samples, in the order of the transposed weights w'. With
groups both get an axis in front. Preconditions: two spatial axes, float32, weights of known size;
one of the numbers of groups and of offsets' groups divides the other.
"""

from __future__ import annotations

import numpy as np

from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.passes.writer import NodeWriter


def deformable(graph: Graph) -> PassReport:
    """Rewrite every one in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "DeformConv":
                reason = _rewrite(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: DeformConv stays: {reason}")
        changes += rewriter.finish()
    return PassReport("deformable", changes, notes)


def _rewrite(rewriter: Rewriter, node: Node) -> str | None:
    x, weight, offset = node.inputs[:3]
    bias, mask = node.input(3), node.input(4)
    given: list[Value | None] = [x, weight, offset]
    for value in (*given, *(v for v in (bias, mask) if v is not None)):
        if value is None or value.shape is None or value.dtype != np.float32:
            return "an input is not of float32"
    assert x is not None
    assert weight is not None
    if x.rank != 4 or weight.rank != 4 or not all(dim.is_constant for dim in weight.shape or ()):
        return "it is not over two spatial axes, or the size of its weights is not known"
    group, offsets = int(node.attribute("group", 1)), int(node.attribute("offset_group", 1))
    results, own, *window = (dim.value for dim in weight.shape or ())
    if max(group, offsets) % min(group, offsets) or own * group % max(group, offsets):
        return f"{group} groups and {offsets} groups of offsets"
    writer = NodeWriter(rewriter, node)
    last = writer.emit("Transpose", x, perm=[0, 2, 3, 1])
    (columns,) = writer.several(
        "DeformedColumns",
        1,
        last,
        offset,
        mask,
        version=1,
        domain=OURS,
        kernel_shape=window,
        group=group,
        offset_group=offsets,
        strides=list(node.attribute("strides") or [1, 1]),
        dilations=list(node.attribute("dilations") or [1, 1]),
        pads=list(node.attribute("pads") or [0] * 4),
    )
    depth = own * window[0] * window[1]
    split = writer.emit("Reshape", weight, [group, results // group, own, *window], version=14)
    turned = writer.emit("Transpose", split, perm=[0, 3, 4, 2, 1])
    if group == 1:
        flat = writer.emit("Reshape", turned, [depth, results], version=14)
        product = writer.emit("MatMul", columns, flat)
    else:
        flat = writer.emit("Reshape", turned, [group, 1, 1, depth, results // group], version=14)
        parts = writer.emit("MatMul", columns, flat)
        together = writer.emit("Transpose", parts, perm=[1, 2, 3, 0, 4])
        product = writer.emit("Reshape", together, [0, 0, 0, results], version=14)
    if bias is not None:
        product = writer.emit("Add", product, bias, version=14)
    writer.emit("Transpose", product, into=list(node.outputs), perm=[0, 3, 1, 2])
    writer.finish()
    return None

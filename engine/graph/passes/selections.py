"""Operators that compare positions with indices, and masks that are all true.

- ``OneHot(i, d, [off, on]) = Where(j = i mod d, on, off)`` over positions j of a new axis, where d
  is known only to a run.
- ``Hardmax(x) = [j = ArgMax(x)]`` along its axis; before opset 13 over the flattened tail.
- ``Dropout(x) = x, true`` outside training, or where it drops nothing.
- ``Compress(x, c) = Gather(x, NonZero(c)[0])`` along its axis, or of the flattened x.

Preconditions: the ranks are known; the training mode of Dropout is known to be off, or its ratio
to be 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, scalar
from engine.graph.passes.writer import NodeWriter

_SCATTERED: Final = frozenset(("int32", "int64", "uint8", "float32", "float64"))
"""Types of indices that the kernel of OneHot takes."""


def selections(graph: Graph) -> PassReport:
    """Rewrite them in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "OneHot":
                _one_hot(rewriter, node)
            elif node.key == "Hardmax":
                _hardmax(rewriter, node)
            elif node.key == "Dropout":
                _dropout(rewriter, node)
            elif node.key == "Compress":
                _compress(rewriter, node)
        changes += rewriter.finish()
    return PassReport("selections", changes)


def _positions(writer: NodeWriter, length: Value, axis: int, rank: int) -> Value:
    """0, 1, ... along one axis of a tensor of `rank`; `length` is a scalar."""
    steps = writer.emit("Range", writer.number(0), length, writer.number(1), version=11)
    others = [other for other in range(rank) if other != axis]
    return writer.emit("Unsqueeze", steps, others) if others else steps


def _one_hot(rewriter: Rewriter, node: Node) -> None:
    indices, depth, values = node.inputs[:3]
    if indices is None or depth is None or values is None or indices.shape is None:
        return
    if depth.shape is None or len(depth.shape) > 1:
        return
    if (depth.data is not None or depth.dims is not None) and str(indices.dtype) in _SCATTERED:
        return  # a depth known by then is scattered: one store per index instead of a comparison
    writer = NodeWriter(rewriter, node)
    rank = len(indices.shape) + 1
    axis = int(node.attribute("axis", -1)) % rank
    length = writer.emit("Cast", depth, to=7) if str(depth.dtype) != "int64" else depth
    if len(depth.shape) == 1:
        length = writer.emit("Squeeze", length, [0])
    whole = writer.emit("Cast", indices, to=7) if str(indices.dtype) != "int64" else indices
    below = writer.emit("Less", whole, writer.number(0))
    wrapped = writer.emit("Add", whole, length, version=14)
    index = writer.emit("Where", below, wrapped, whole, version=16)
    column = writer.emit("Unsqueeze", index, [axis])
    equal = writer.emit("Equal", column, _positions(writer, length, axis, rank))
    off, on = (writer.emit("Gather", values, writer.number(place), axis=0) for place in (0, 1))
    writer.emit("Where", equal, on, off, version=16, into=list(node.outputs))
    writer.finish()


def _hardmax(rewriter: Rewriter, node: Node) -> None:
    x = node.inputs[0]
    if x is None or x.shape is None or not x.shape:
        return
    writer = NodeWriter(rewriter, node)
    flat, axis, rank = x, int(node.attribute("axis", -1 if node.version >= 13 else 1)), x.rank
    if node.version < 13:
        flat = writer.emit("Flatten", x, axis=axis)
        axis, rank = 1, 2
    axis %= rank
    largest = writer.emit("ArgMax", flat, axis=axis, keepdims=1)
    shape = writer.emit("Shape", flat, version=15)
    length = writer.emit("Gather", shape, writer.number(axis), axis=0)
    equal = writer.emit("Equal", largest, _positions(writer, length, axis, rank))
    done = writer.emit("CastLike", equal, x, version=15)
    if node.version < 13:
        writer.emit(
            "Reshape",
            done,
            writer.emit("Shape", x, version=15),
            version=14,
            into=list(node.outputs),
            allowzero=1,
        )
    else:
        writer.emit("Identity", done, version=16, into=list(node.outputs))
    writer.finish()


def _dropout(rewriter: Rewriter, node: Node) -> None:
    ratio, training, x = node.input(1), node.input(2), node.inputs[0]
    if x is None or node.version < 7:
        return
    idle = training is None or scalar(training) is False
    if not idle and (ratio is None or scalar(ratio) != 0):
        return
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None and mask.name and node.version < 12:
        return  # what the mask holds was not defined then
    writer = NodeWriter(rewriter, node)
    writer.emit("Identity", x, version=16, into=[node.outputs[0]])
    if mask is not None and mask.name:
        true = rewriter.constant("true", np.ones((), np.bool_))
        writer.emit("Expand", true, writer.emit("Shape", x, version=15), into=[mask])
    writer.finish()


def _compress(rewriter: Rewriter, node: Node) -> None:
    x, condition = node.inputs[:2]
    if x is None or condition is None or x.shape is None or condition.shape is None:
        return
    axis = node.attribute("axis")
    if len(condition.shape) != 1 or (axis is not None and not x.shape):
        return
    writer = NodeWriter(rewriter, node)
    flat = writer.emit("Reshape", x, [-1], version=14) if axis is None else x
    found = writer.emit("NonZero", condition)
    chosen = writer.emit("Squeeze", found, [0])
    writer.emit("Gather", flat, chosen, into=list(node.outputs), axis=int(axis or 0))
    writer.finish()

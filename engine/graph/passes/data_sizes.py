"""Operators of which only the run tells how many results there are, in two native steps.

The first step finds and counts, ``packhorse.Sizes`` makes a size of the count, and the second step
writes a result of that size:

- ``NonZero(x) = Positions(x, starts, n)`` with ``starts, total = CountNonZero(x)``.
- ``NonMaxSuppression(...) = KeptBoxes(kept, starts, n)`` with ``kept, starts, total =
  Suppress(...)``.
- ``Unique(x)``: ``firsts, inverse, counts, total = Distinct(rows)``; the first n of ``firsts`` and
  ``counts`` are results, and so are the elements of x at ``firsts``. The rows of the matrix are the
  slices of x along the axis, or its elements; 16-bit floats are compared as float32.

Everywhere ``n = Sizes(total)``. Preconditions: the rank is known, and kernels take the data types.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.ir import OURS, Graph, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.passes.writer import NodeWriter

_ELEMENTS: Final = frozenset(
    {
        *("bool", "float16", "bfloat16", "float32", "float64"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    }
)
_HALVES: Final = frozenset({"float16", "bfloat16"})
_FLOAT: Final = 1
"""The number of float32 among ONNX's data types."""


def data_sizes(graph: Graph) -> PassReport:
    """Rewrite them in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            rule = _RULES.get(node.key)
            reason = rule(NodeWriter(rewriter, node)) if rule is not None else None
            if reason:
                notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("data_sizes", changes, notes)


def _size(writer: NodeWriter, total: Value) -> Value:
    """The count of the first step as a size."""
    (size,) = writer.several("Sizes", 1, total, version=1, domain=OURS, of="counts", signed=[])
    return size


def _refused(value: Value | None, types: frozenset[str]) -> str | None:
    """Why an input does not fit kernels."""
    if value is None or value.shape is None or value.dtype is None:
        return "the rank or data type of an input is not known"
    return None if value.dtype.name in types else f"an input is {value.dtype}"


def _non_zero(writer: NodeWriter) -> str | None:
    node = writer.node
    x = node.inputs[0]
    reason = _refused(x, _ELEMENTS)
    if reason or x is None or not x.shape:
        return reason or "its input is a scalar"
    starts, total = writer.several("CountNonZero", 2, x, version=1, domain=OURS)
    inputs = (x, starts, _size(writer, total))
    writer.several("Positions", 1, *inputs, version=1, domain=OURS, into=list(node.outputs))
    writer.finish()
    return None


def _suppression(writer: NodeWriter) -> str | None:
    node = writer.node
    boxes, scores = node.inputs[:2]
    reason = _refused(boxes, frozenset({"float32"})) or _refused(scores, frozenset({"float32"}))
    if reason:
        return reason
    for value in (boxes, scores):
        if value is None or value.shape is None or len(value.shape) != 3:
            return "boxes and scores do not have three axes"
    most, overlap, floor = (node.input(place) for place in (2, 3, 4))
    if most is None:
        most = writer.constant(np.zeros(1, np.int64))
    if overlap is None:
        overlap = writer.constant(np.zeros(1, np.float32))
    center = int(node.attribute("center_point_box", 0))
    inputs = (boxes, scores, most, overlap, floor)
    kept, starts, total = writer.several(
        "Suppress", 3, *inputs, version=1, domain=OURS, center_point_box=center
    )
    rest = (kept, starts, _size(writer, total))
    writer.several("KeptBoxes", 1, *rest, version=1, domain=OURS, into=list(node.outputs))
    writer.finish()
    return None


def _unique(writer: NodeWriter) -> str | None:
    node = writer.node
    x = node.inputs[0]
    reason = _refused(x, _ELEMENTS)
    if reason or x is None or x.shape is None:
        return reason
    outputs = [value if value.name else None for value in node.outputs]
    outputs += [None] * (4 - len(outputs))
    given = node.attribute("axis")
    source, axis = x, 0
    if given is None:
        source = writer.emit("Reshape", x, [-1], version=14)
        rows = writer.emit("Reshape", x, [-1, 1], version=14)
    else:
        axis = int(given) % len(x.shape)
        order = [axis, *(other for other in range(len(x.shape)) if other != axis)]
        rows = writer.emit("Flatten", writer.emit("Transpose", x, perm=order), axis=1)
    if x.dtype is not None and x.dtype.name in _HALVES:
        rows = writer.emit("Cast", rows, version=19, to=_FLOAT)
    firsts, inverse, counts, total = writer.several(
        "Distinct", 4, rows, version=1, domain=OURS, sorted=int(node.attribute("sorted", 1))
    )
    size = _size(writer, total)
    if outputs[0] is not None or outputs[1] is not None:
        into = [outputs[1]] if outputs[1] is not None else None
        places = writer.emit("Slice", firsts, [0], size, [0], into=into)
        if outputs[0] is not None:
            writer.emit("Gather", source, places, into=[outputs[0]], axis=axis)
    if outputs[2] is not None:
        writer.emit("Identity", inverse, version=16, into=[outputs[2]])
    if outputs[3] is not None:
        writer.emit("Slice", counts, [0], size, [0], into=[outputs[3]])
    writer.finish()
    return None


_RULES: Final = {
    "NonMaxSuppression": _suppression,
    "NonZero": _non_zero,
    "Unique": _unique,
}

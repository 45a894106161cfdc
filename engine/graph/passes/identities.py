"""Removal of nodes that return an input unchanged.

- ``Identity(x) = x``; Dropout outside training; Cast and CastLike to the type x has; Concat, Sum,
  Max, Min and Mean of one input; Split into one part; Transpose by the identity permutation.
- ``x + 0 = x - 0 = x * 1 = x / 1 = x ** 1 = x`` for a constant of only that element.
- Expand, Tile, Slice (forwards) and Pad (by zero) to the shape x has.
- ``Sum(a, b) = a + b``: the n-ary form of two inputs becomes Add.

Preconditions: for the arithmetic ones the output has the shape of x, so that the constant does not
broadcast it; a mask that Dropout also returns is not read. A graph output keeps its name; an
Identity from an input or a constant straight to a graph output stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from onnx import helper

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array, scalar

_Source = Callable[[Node, list[str]], "Value | None"]
"""The input that a node returns unchanged, None where it does not; may add a note."""


def identities(graph: Graph) -> PassReport:
    """Let readers of a node that changes nothing read its input."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            rule = _RULES.get(node.op)
            if node.domain or rule is None:
                continue
            source = rule(node, notes)
            if source is not None:
                rewriter.bypass(node, source)
            elif node.op == "Sum" and len(node.inputs) == 2:
                rewriter.substitute(node, Node("Add", list(node.inputs), [], version=14))
        changes += rewriter.finish()
    return PassReport("identities", changes, notes)


def _same_shape(node: Node, source: Value | None) -> bool:
    """Whether a node's output is proven to have the shape of an input."""
    return source is not None and source.shape is not None and node.outputs[0].shape == source.shape


def _identity(node: Node, notes: list[str]) -> Value | None:
    return node.input(0)


def _single_input(node: Node, notes: list[str]) -> Value | None:
    return node.input(0) if len(node.inputs) == 1 and len(node.outputs) == 1 else None


def _dropout(node: Node, notes: list[str]) -> Value | None:
    training = node.input(2)
    if training is not None and scalar(training) is not False:
        notes.append(f"{node.label}: Dropout stays: it may run in training mode")
        return None
    if any(value.name for value in node.outputs[1:]):
        notes.append(f"{node.label}: Dropout stays: its mask is read")
        return None
    return node.input(0)


def _cast(node: Node, notes: list[str]) -> Value | None:
    source = node.input(0)
    target: np.dtype[Any] | None = None
    if node.op == "CastLike":
        like = node.input(1)
        target = like.dtype if like is not None else None
    elif isinstance(node.attribute("to"), int):
        target = np.dtype(helper.tensor_dtype_to_np_dtype(node.attribute("to")))
    if source is None or target is None or source.dtype != target:
        return None
    return source


def _neutral(element: float) -> Callable[[Node, bool], Value | None]:
    def source_of(node: Node, commutes: bool) -> Value | None:
        for index in (1, 0) if commutes else (1,):
            constant = constant_array(node.inputs[index])
            source = node.inputs[1 - index]
            if constant is None or constant.dtype.kind not in "iufV" or not constant.size:
                continue
            if bool(np.all(constant == np.array(element, constant.dtype))) and _same_shape(
                node, source
            ):
                return source
        return None

    return source_of


def _plus(node: Node, notes: list[str]) -> Value | None:
    return _neutral(0)(node, node.op == "Add")


def _times(node: Node, notes: list[str]) -> Value | None:
    return _neutral(1)(node, node.op == "Mul")


def _transpose(node: Node, notes: list[str]) -> Value | None:
    permutation = node.attribute("perm")
    source = node.input(0)
    if permutation is None and source is not None and source.shape is not None:
        permutation = list(range(len(source.shape)))[::-1]
    if permutation is not None and list(permutation) == sorted(permutation):
        return source
    return None


def _resizing(node: Node, notes: list[str]) -> Value | None:
    return node.input(0) if _same_shape(node, node.input(0)) else None


def _slice(node: Node, notes: list[str]) -> Value | None:
    if node.version < 10 or not _same_shape(node, node.input(0)):
        return None
    steps = constant_array(node.input(4))
    if node.input(4) is not None and (steps is None or bool(np.any(steps <= 0))):
        return None
    return node.input(0)


def _pad(node: Node, notes: list[str]) -> Value | None:
    pads = constant_array(node.input(1))
    if node.version < 11 or pads is None or bool(np.any(pads != 0)):
        return None
    return node.input(0)


def _split(node: Node, notes: list[str]) -> Value | None:
    return node.input(0) if len(node.outputs) == 1 else None


_RULES: Final[dict[str, _Source]] = {
    "Add": _plus,
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _single_input,
    "Div": _times,
    "Dropout": _dropout,
    "Expand": _resizing,
    "Identity": _identity,
    "Max": _single_input,
    "Mean": _single_input,
    "Min": _single_input,
    "Mul": _times,
    "Pad": _pad,
    "Pow": _times,
    "Slice": _slice,
    "Split": _split,
    "Sub": _plus,
    "Sum": _single_input,
    "Tile": _resizing,
    "Transpose": _transpose,
}

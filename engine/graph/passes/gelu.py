"""Gelu from its parts.

- ``Gelu(x) = x/2 * (1 + erf(x / sqrt(2)))``
- ``Gelu(x, approximate="tanh") = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715*x**3)))``

(Hendrycks and Gimpel, Gaussian Error Linear Units, section 2; ONNX Gelu-20.) Exporters write the
factors in any order, the division as a product, and the cube as Pow or as products. Preconditions:
constants agree to 1e-4, intermediate values have no other reader, shapes are inferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.patterns import (
    Polynomial,
    keeps_shape,
    only_reader_of,
    other_operand,
    polynomial,
    products,
    same,
    sources,
)
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_ERF: Final[Polynomial] = {1: math.sqrt(0.5)}
_TANH: Final[Polynomial] = {1: math.sqrt(2 / math.pi), 3: 0.044715 * math.sqrt(2 / math.pi)}
_FORMS: Final = {"Erf": (_ERF, "none"), "Tanh": (_TANH, "tanh")}


def gelu(graph: Graph) -> PassReport:
    """Recognise Gelu in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.op in _FORMS and not node.domain:
                _match(rewriter, node, notes.append)
        changes += rewriter.finish()
    return PassReport("gelu", changes, notes)


def _match(rewriter: Rewriter, node: Node, note: Callable[[str], None]) -> None:
    expected, approximate = _FORMS[node.op]
    argument = node.inputs[0]
    inputs = [
        value for value in sources(argument) if same(polynomial(value=argument, x=value), expected)
    ]
    if not inputs:
        if node.op == "Erf":
            note(f"{node.label}: Erf is no Gelu: its argument is not x/sqrt(2)")
        return
    plus_one = only_reader_of(rewriter, node.outputs[0], "Add")
    if plus_one is None or other_operand(plus_one, 1.0) is not node.outputs[0]:
        note(f"{node.label}: {node.op} is no Gelu: 1 is not added to it alone")
        return
    for x in inputs:
        last = _half_times(rewriter, plus_one.outputs[0], x)
        if last is not None:
            rewriter.substitute(
                last, Node("Gelu", [x], [], {"approximate": approximate}, version=20)
            )
            return
    note(f"{node.label}: {node.op} is no Gelu: the sum is not multiplied by x/2 alone")


def _half_times(rewriter: Rewriter, value: Value, x: Value) -> Node | None:
    """Last node of a product ``x/2 * value``."""
    for node, factor, count in products(rewriter, value, x):
        if count == 1 and abs(factor - 0.5) <= 5e-5 and keeps_shape(node, x):
            return node
    return None

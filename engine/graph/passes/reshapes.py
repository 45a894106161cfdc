"""One form for all views: Reshape with a constant shape.

Flatten, Squeeze, Unsqueeze and Reshape keep the elements in row-major order and differ in how they
say the new shape only, so a chain of them is one Reshape of the first input to the last shape:
``r2(r1(x)) = reshape(x, shape(r2))``. The shape becomes a constant: a constant dim as itself, a dim
equal to the input's at the same position as 0 (copied), and at most one other as -1. A Reshape to
the shape that its input has is dropped.

Precondition: the shapes of x and of the result are inferred, no dim is the constant 0 (which would
read as a copy), and at most one dim needs -1.
"""

from __future__ import annotations

from typing import Final

from engine.graph.dims import Dim
from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array

VIEWS: Final = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def reshapes(graph: Graph) -> PassReport:
    """Merge and normalise views in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.op in VIEWS and not node.domain:
                reason = _normalise(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("reshapes", changes, notes)


def _normalise(rewriter: Rewriter, node: Node) -> str | None:
    direct, result = node.inputs[0], node.outputs[0]
    assert direct is not None
    if direct.shape is None or result.shape is None:
        return "shapes are unknown"
    if direct.shape == result.shape:
        rewriter.bypass(node, direct)
        return None
    source, template = direct, reshape_template(direct.shape, result.shape)
    for earlier in _chain(direct):
        if earlier.shape is None:
            break
        if earlier.shape == result.shape:
            rewriter.bypass(node, earlier)
            return None
        candidate = reshape_template(earlier.shape, result.shape)
        if candidate is not None:
            source, template = earlier, candidate
    if template is None:
        return "more than one dim of its result is neither constant nor copied"
    current = constant_array(node.input(1)) if node.op == "Reshape" else None
    unchanged = (
        source is direct
        and current is not None
        and node.version >= 14
        and not node.attribute("allowzero", 0)
        and current.tolist() == template
    )
    if not unchanged:
        shape = rewriter.constant(f"{node.label}_shape", template)
        rewriter.substitute(node, Node("Reshape", [source, shape], [], version=14))
    return None


def _chain(value: Value) -> list[Value]:
    """Inputs of the views that lead to a value, nearest first."""
    found: list[Value] = []
    producer = value.producer
    while producer is not None and producer.op in VIEWS and not producer.domain:
        source = producer.inputs[0]
        assert source is not None
        found.append(source)
        producer = source.producer
    return found


def reshape_template(source: tuple[Dim, ...], result: tuple[Dim, ...]) -> list[int] | None:
    """Shape input of a Reshape between two shapes, None where a constant cannot express it."""
    template: list[int] = []
    for axis, dim in enumerate(result):
        if dim.is_constant:
            if dim.value == 0:
                return None
            template.append(dim.value)
        elif axis < len(source) and source[axis] == dim:
            template.append(0)
        else:
            template.append(-1)
    return template if template.count(-1) <= 1 else None

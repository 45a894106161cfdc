"""HardSigmoid, HardSwish and Silu from their parts.

- ``HardSigmoid(x; a, b) = max(0, min(1, a*x + b))``: also as ``clip(p*x + q, 0, h) * k`` with
  ``h*k = 1``, which is a = p*k, b = q*k (PaddlePaddle and PyTorch write ``clip(x + 3, 0, 6) / 6``).
- ``HardSwish(x) = x * HardSigmoid(x; 1/6, 1/2)`` (ONNX HardSwish-14).
- ``Silu(x) = x * Sigmoid(x)``, in the domain of our own operators.

Preconditions: constants agree to 1e-4, intermediate values have no other reader, shapes are
inferred.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.patterns import close, keeps_shape, polynomial, products, sources
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, scalar


def hard_activations(graph: Graph) -> PassReport:
    """Recognise the activations above in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            rule = _RULES.get(node.op)
            if rule is not None and not node.domain:
                rule(rewriter, node, notes)
        changes += rewriter.finish()
    return PassReport("hard_activations", changes, notes)


def _clip(rewriter: Rewriter, node: Node, notes: list[str]) -> None:
    low, high = scalar(node.input(1)), scalar(node.input(2))
    if node.version < 11 or low != 0.0 or high is None or high <= 0.0:
        return
    argument = node.inputs[0]
    lines: list[tuple[Value, float, float]] = []
    for x in sources(argument):
        line = polynomial(argument, x)
        if line is not None and line.keys() == {0, 1}:
            lines.insert(0, (x, line[1], line[0]))
    matches = [match for line in lines if (match := _scaled(rewriter, node, high, *line))]
    matches.sort(key=lambda match: match[1].op != "HardSwish")
    if matches:
        rewriter.substitute(*matches[0])
    elif lines:
        _, slope, offset = lines[0]
        notes.append(
            f"{node.label}: Clip is no HardSigmoid: {slope:g}*x + {offset:g} up to {high:g} is "
            "not scaled to 1 alone"
        )


def _scaled(
    rewriter: Rewriter, node: Node, high: float, x: Value, slope: float, offset: float
) -> tuple[Node, Node] | None:
    """Last node of the longest match of ``clip(slope*x + offset, 0, high)``, and its substitute."""
    best: tuple[Node, Node] | None = None
    if close(high, 1.0) and keeps_shape(node, x):
        best = (node, _hard_sigmoid_node(x, slope, offset))
    for last, factor, count in products(rewriter, node.outputs[0], x):
        if not close(factor * high, 1.0) or not keeps_shape(last, x):
            continue
        if count == 0:
            best = (last, _hard_sigmoid_node(x, slope * factor, offset * factor))
        elif count == 1 and close(slope * factor, 1 / 6) and close(offset * factor, 0.5):
            best = (last, Node("HardSwish", [x], [], {}, "", 14))
    return best


def _hard_sigmoid_node(x: Value, alpha: float, beta: float) -> Node:
    return Node("HardSigmoid", [x], [], {"alpha": alpha, "beta": beta}, "", 6)


def _hard_sigmoid(rewriter: Rewriter, node: Node, notes: list[str]) -> None:
    x = node.inputs[0]
    assert x is not None
    if close(node.attribute("alpha", 0.2), 1 / 6) and close(node.attribute("beta", 0.5), 0.5):
        _times_x(rewriter, node, x, Node("HardSwish", [x], [], {}, "", 14), notes)


def _sigmoid(rewriter: Rewriter, node: Node, notes: list[str]) -> None:
    x = node.inputs[0]
    assert x is not None
    _times_x(rewriter, node, x, Node("Silu", [x], [], {}, OURS, 1), notes)


def _times_x(rewriter: Rewriter, node: Node, x: Value, whole: Node, notes: list[str]) -> None:
    for last, factor, count in products(rewriter, node.outputs[0], x):
        if count == 1 and close(factor, 1.0) and keeps_shape(last, x):
            rewriter.substitute(last, whole)
            return
    multiplied = [r for r in rewriter.readers(node.outputs[0]) if r.op == "Mul" and x in r.inputs]
    if multiplied:
        notes.append(
            f"{node.label}: {node.op} is no {whole.op}: it has other readers, or shapes are unknown"
        )


_RULES: dict[str, Callable[[Rewriter, Node, list[str]], None]] = {
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": _sigmoid,
}

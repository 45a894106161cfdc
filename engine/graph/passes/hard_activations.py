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
    for x in sources(argument):
        line = polynomial(argument, x)
        if line is None or line.keys() != {0, 1}:
            continue
        slope, offset = line[1], line[0]
        best: tuple[Node, str] | None = None
        if close(high, 1.0) and keeps_shape(node, x):
            best = (node, "HardSigmoid")
        scale = 1.0 / high
        for last, factor, count in products(rewriter, node.outputs[0], x):
            if not close(factor * high, 1.0) or not keeps_shape(last, x):
                continue
            if count == 0:
                best, scale = (last, "HardSigmoid"), factor
            elif count == 1 and close(slope * factor, 1 / 6) and close(offset * factor, 0.5):
                best, scale = (last, "HardSwish"), factor
        if best is None:
            notes.append(
                f"{node.label}: Clip is no HardSigmoid: {slope:g}*x + {offset:g} up to {high:g} is "
                "not scaled to 1 alone"
            )
            return
        last, op = best
        attributes = {"alpha": slope * scale, "beta": offset * scale}
        rewriter.substitute(last, _activation(op, x, attributes))
        return


def _hard_sigmoid(rewriter: Rewriter, node: Node, notes: list[str]) -> None:
    x = node.inputs[0]
    assert x is not None
    if close(node.attribute("alpha", 0.2), 1 / 6) and close(node.attribute("beta", 0.5), 0.5):
        _times_x(rewriter, node, x, "HardSwish", notes)


def _sigmoid(rewriter: Rewriter, node: Node, notes: list[str]) -> None:
    x = node.inputs[0]
    assert x is not None
    _times_x(rewriter, node, x, "Silu", notes)


def _times_x(rewriter: Rewriter, node: Node, x: Value, op: str, notes: list[str]) -> None:
    for last, factor, count in products(rewriter, node.outputs[0], x):
        if count == 1 and close(factor, 1.0) and keeps_shape(last, x):
            rewriter.substitute(last, _activation(op, x, {}))
            return
    multiplied = [r for r in rewriter.readers(node.outputs[0]) if r.op == "Mul" and x in r.inputs]
    if multiplied:
        notes.append(
            f"{node.label}: {node.op} is no {op}: it has other readers, or shapes are unknown"
        )


def _activation(op: str, x: Value, attributes: dict[str, float]) -> Node:
    if op == "Silu":
        return Node(op, [x], [], {}, OURS, 1)
    if op == "HardSwish":
        return Node(op, [x], [], {}, "", 14)
    return Node(op, [x], [], dict(attributes), "", 6)


_RULES: dict[str, Callable[[Rewriter, Node, list[str]], None]] = {
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": _sigmoid,
}

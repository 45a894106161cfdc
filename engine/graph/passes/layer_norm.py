"""LayerNormalization from its parts.

With m the mean of x over its last axes (sizes kept), d = x - m and v the mean of d**2 alike,

    LayerNormalization(x, g, b) = d / sqrt(v + epsilon) * g + b

(ONNX LayerNormalization-17). Exporters write d once or twice, the square as Pow or Mul, the root as
Sqrt or Pow, the quotient as Div or as Mul by Reciprocal, and the operands in any order. Where no
scale follows, g is ones. Preconditions: both means are over the same trailing axes; g and b have
exactly the normalised sizes; the normalised value has no other reader than the scale, and the
scaled one no other than the shift (else matching stops there).
"""

from __future__ import annotations

import numpy as np

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.patterns import only_reader_of
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array, scalar


def layer_norm(graph: Graph) -> PassReport:
    """Recognise LayerNormalization in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.op in ("Div", "Mul") and not node.domain:
                reason = _match(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: {node.op} is no LayerNormalization: {reason}")
        changes += rewriter.finish()
    return PassReport("layer_norm", changes, notes)


def _match(rewriter: Rewriter, node: Node) -> str | None:
    centred, variance, epsilon = _quotient(node)
    if centred is None or variance is None or epsilon is None:
        return None
    mean = _producer(centred.inputs[1], "ReduceMean")
    if mean is None or mean.inputs[0] is not centred.inputs[0]:
        return "what it divides is not x - mean(x)"
    square = _square(variance.inputs[0])
    if square is None or not _same_difference(square, centred):
        return "what it divides by is not the variance of what it divides"
    x = centred.inputs[0]
    assert x is not None
    if x.shape is None:
        return "shapes are unknown"
    rank = len(x.shape)
    axes, others = _axes(mean, rank), _axes(variance, rank)
    if axes is None or axes != others or axes != list(range(axes[0], rank)):
        return "the means are not over the same last axes"
    if node.outputs[0].shape != x.shape:
        return "the means do not keep their axes"
    return _replace(rewriter, node, x, axes[0], epsilon)


def _replace(rewriter: Rewriter, node: Node, x: Value, axis: int, epsilon: float) -> str | None:
    assert x.shape is not None
    sizes = x.shape[axis:]
    last, scale, shift = node, None, None
    times = only_reader_of(rewriter, node.outputs[0], "Mul")
    found = _parameter(times, node.outputs[0], sizes)
    if times is not None and found is not None:
        last, scale = times, found
        plus = only_reader_of(rewriter, times.outputs[0], "Add")
        shift = _parameter(plus, times.outputs[0], sizes)
        if plus is not None and shift is not None:
            last = plus
    if scale is None:
        if not all(dim.is_constant for dim in sizes) or x.dtype is None:
            return "it has no scale, and the normalised sizes are not constant"
        ones = np.ones(tuple(dim.value for dim in sizes), x.dtype)
        scale = rewriter.constant(f"{node.label}_scale", ones)
    inputs: list[Value | None] = [x, scale] if shift is None else [x, scale, shift]
    attributes = {"axis": axis - len(x.shape), "epsilon": epsilon}
    rewriter.substitute(last, Node("LayerNormalization", inputs, [], attributes, version=17))
    return None


def _parameter(node: Node | None, value: Value, sizes: tuple[object, ...]) -> Value | None:
    """The other operand of a node where it has exactly the normalised sizes."""
    if node is None:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    return other if other is not None and other.shape == sizes and other is not value else None


def _quotient(node: Node) -> tuple[Node | None, Node | None, float | None]:
    """Sub, variance and epsilon of ``(x - m) / sqrt(v + epsilon)``."""
    if node.op == "Div":
        pairs = [(node.inputs[0], _root(node.inputs[1]))]
    else:
        pairs = [(node.inputs[i], _reciprocal_root(node.inputs[1 - i])) for i in (0, 1)]
    for value, radicand in pairs:
        difference = _producer(value, "Sub")
        plus = _producer(radicand, "Add")
        if difference is None or plus is None:
            continue
        for index in (0, 1):
            variance = _producer(plus.inputs[index], "ReduceMean")
            epsilon = scalar(plus.inputs[1 - index])
            if variance is not None and epsilon is not None:
                return difference, variance, float(epsilon)
    return None, None, None


def _root(value: Value | None) -> Value | None:
    root = _producer(value, "Sqrt")
    if root is not None:
        return root.inputs[0]
    power = _producer(value, "Pow")
    return power.inputs[0] if power is not None and scalar(power.inputs[1]) == 0.5 else None


def _reciprocal_root(value: Value | None) -> Value | None:
    reciprocal = _producer(value, "Reciprocal")
    if reciprocal is not None:
        return _root(reciprocal.inputs[0])
    quotient = _producer(value, "Div")
    if quotient is not None and scalar(quotient.inputs[0]) == 1.0:
        return _root(quotient.inputs[1])
    power = _producer(value, "Pow")
    return power.inputs[0] if power is not None and scalar(power.inputs[1]) == -0.5 else None


def _square(value: Value | None) -> Node | None:
    """The Sub whose square a value is."""
    power = _producer(value, "Pow")
    if power is not None and scalar(power.inputs[1]) == 2.0:
        return _producer(power.inputs[0], "Sub")
    product = _producer(value, "Mul")
    if product is not None and product.inputs[0] is product.inputs[1]:
        return _producer(product.inputs[0], "Sub")
    return None


def _same_difference(first: Node, second: Node) -> bool:
    return first is second or all(a is b for a, b in zip(first.inputs, second.inputs, strict=True))


def _axes(node: Node, rank: int) -> list[int] | None:
    """Reduced axes in order; None where they are unknown or the reduction drops them."""
    if not node.attribute("keepdims", 1):
        return None
    given = node.attribute("axes")
    if given is None:
        data = constant_array(node.input(1))
        if data is None:
            return None
        given = data.reshape(-1).tolist()
    return sorted(int(axis) % rank for axis in given) or None


def _producer(value: Value | None, op: str) -> Node | None:
    node = value.producer if value is not None else None
    return node if node is not None and node.op == op and not node.domain else None

"""Operators of old opsets in the form of newer ones, so that later phases know one form each.

What a newer version moved from an attribute to an input is moved (as a constant); what changed its
meaning is expressed in the newer meaning; what a newer name replaced is renamed:

- axes of Squeeze, Unsqueeze and Reduce*, pads of Pad, bounds of Clip, ranges of Slice, k of TopK,
  sizes of Split and the shape of Reshape become inputs (opsets 5 to 18);
- BatchNormalization before opset 14 with one output is inference mode;
- ``Softmax_1(x, axis)`` before opset 13 flattens: with ``x'`` of shape (prod(d[:axis]),
  prod(d[axis:])) it is ``reshape(Softmax_13(x', 1), d)``, which is ``Softmax_13(x, -1)`` where axis
  is the last (LogSoftmax and Hardmax alike);
- ``Upsample(x, scales)`` and Resize-10 are Resize with asymmetric coordinates, rounding down where
  they enlarge and up where they shrink (unspecified; as onnxruntime does);
- the slope of PRelu before opset 7 has one element per channel: an axis of 1 follows for each
  spatial axis;
- ``op_6(a, b, broadcast=1, axis)`` is ``op_7(a, b')`` with b' unsqueezed at its end.

Precondition of the second form of Softmax and of the last item: the ranks are known. An operator
that cannot be expressed is left, with a note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.graph.ir import AnyArray, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array

_Rule = Callable[[Rewriter, Node], "str | None"]
"""Rewrites a node in place or by the rewriter; returns why it could not."""


def opset_upgrade(graph: Graph) -> PassReport:
    """Bring operators of the standard domain to the forms described above."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            rule, newer = _RULES.get(node.op, (None, 0))
            if node.domain or rule is None or node.version >= newer:
                continue
            before = rewriter.changes
            reason = rule(rewriter, node)
            if reason:
                notes.append(f"{node.label}: {node.op}-{node.version} stays: {reason}")
            else:
                node.version = max(node.version, newer)
                rewriter.changes = max(rewriter.changes, before + 1)
        changes += rewriter.finish()
    return PassReport("opset_upgrade", changes, notes)


def _append(rewriter: Rewriter, node: Node, position: int, data: AnyArray | list[int]) -> None:
    """Make a constant the input at `position`."""
    value = rewriter.constant(f"{node.label}_input_{position}", data)
    node.inputs += [None] * (position - len(node.inputs))
    node.inputs[position : position + 1] = [value]


def _axes_to_input(rewriter: Rewriter, node: Node) -> str | None:
    axes = node.attributes.pop("axes", None)
    if axes is not None:
        _append(rewriter, node, 1, list(axes))
    return None


def _clip(rewriter: Rewriter, node: Node) -> str | None:
    if node.version >= 11:
        return None
    source = node.inputs[0]
    dtype = source.dtype if source is not None else None
    if dtype is None:
        return "its data type is unknown"
    for position, name in ((1, "min"), (2, "max")):
        bound = node.attributes.pop(name, None)
        if bound is not None:
            with np.errstate(over="ignore"):
                _append(rewriter, node, position, np.array(bound, dtype))
    return None


def _pad(rewriter: Rewriter, node: Node) -> str | None:
    source = node.inputs[0]
    dtype = source.dtype if source is not None else None
    if dtype is None:
        return "its data type is unknown"
    if node.version >= 11:
        return None
    pads = node.attributes.pop("pads", None) or node.attributes.pop("paddings", [])
    _append(rewriter, node, 1, list(pads))
    _append(rewriter, node, 2, np.array(node.attributes.pop("value", 0.0), dtype))
    return None


def _slice(rewriter: Rewriter, node: Node) -> str | None:
    for position, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        bound = node.attributes.pop(name, None)
        if bound is not None:
            _append(rewriter, node, position, list(bound))
    return None


def _split(rewriter: Rewriter, node: Node) -> str | None:
    sizes = node.attributes.pop("split", None)
    if sizes is not None:
        _append(rewriter, node, 1, list(sizes))
    elif node.input(1) is None:
        node.attributes["num_outputs"] = len(node.outputs)
    return None


def _top_k(rewriter: Rewriter, node: Node) -> str | None:
    if node.version < 10:
        _append(rewriter, node, 1, [int(node.attributes.pop("k"))])
    return None


def _reshape(rewriter: Rewriter, node: Node) -> str | None:
    if node.version < 5:
        node.attributes.pop("consumed_inputs", None)
        _append(rewriter, node, 1, list(node.attributes.pop("shape", [])))
    return None


def _batch_normalization(rewriter: Rewriter, node: Node) -> str | None:
    if any(value.name for value in node.outputs[1:]):
        return "it has outputs of training mode"
    if not node.attribute("spatial", 1):
        return "its statistics are per element, not per channel"
    for name in ("consumed_inputs", "is_test", "momentum", "spatial"):
        node.attributes.pop(name, None)
    del node.outputs[1:]
    return None


def _softmax(rewriter: Rewriter, node: Node) -> str | None:
    source = node.inputs[0]
    assert source is not None
    axis = int(node.attribute("axis", 1))
    rank = len(source.shape) if source.shape is not None else None
    if rank is not None and axis % rank == rank - 1:
        node.attributes["axis"] = -1
        return None
    if axis < 0:
        return "its rank is unknown"
    flat, shape = rewriter.value(f"{node.label}_flat"), rewriter.value(f"{node.label}_shape")
    rows = rewriter.value(f"{node.label}_rows")
    rewriter.insert(node, Node("Flatten", [source], [flat], {"axis": axis}, version=13))
    rewriter.insert(node, Node("Shape", [source], [shape], version=15))
    rewriter.insert(node, Node(node.op, [flat], [rows], {"axis": 1}, version=13))
    rewriter.substitute(node, Node("Reshape", [rows, shape], [], version=14))
    return None


def _upsample(rewriter: Rewriter, node: Node) -> str | None:
    scales: Any = node.attributes.pop("scales", None)
    if scales is None:
        inputs: list[Value | None] = [node.inputs[0], None, node.inputs[1]]
    else:
        value = rewriter.constant(f"{node.label}_scales", np.array(scales, np.float32))
        inputs = [node.inputs[0], None, value]
    mode = node.attribute("mode", "nearest")
    factors = constant_array(inputs[2])
    shrinks = factors is not None and bool(np.any(factors < 1))
    if mode == "nearest" and shrinks and factors is not None and bool(np.any(factors > 1)):
        return "it rounds to different sides along different axes"
    attributes = {
        "mode": "linear" if mode == "bilinear" else mode,
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "ceil" if shrinks else "floor",
    }
    rewriter.substitute(node, Node("Resize", inputs, [], attributes, version=13))
    return None


def _resize(rewriter: Rewriter, node: Node) -> str | None:
    if node.version == 10:
        return _upsample(rewriter, node)
    if node.attribute("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return "newer versions lack its coordinate transformation"
    return None


def _scatter(rewriter: Rewriter, node: Node) -> str | None:
    attributes = dict(node.attributes)
    rewriter.substitute(
        node, Node("ScatterElements", list(node.inputs), [], attributes, version=18)
    )
    return None


def _broadcasting(rewriter: Rewriter, node: Node) -> str | None:
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None
    assert b is not None
    node.attributes.pop("consumed_inputs", None)
    axis = node.attributes.get("axis")
    if node.attributes.pop("broadcast", 0) and axis is not None:
        if a.shape is None or b.shape is None:
            node.attributes["broadcast"] = 1
            return "the ranks of its inputs are unknown"
        missing = len(a.shape) - int(axis) % max(len(a.shape), 1) - len(b.shape)
        if missing > 0:
            axes = rewriter.constant(
                f"{node.label}_axes", [len(b.shape) + i for i in range(missing)]
            )
            wide = rewriter.value(f"{node.label}_wide")
            rewriter.insert(node, Node("Unsqueeze", [b, axes], [wide], version=13))
            rewriter.rewire(node, [a, wide])
    node.attributes.pop("axis", None)
    return None


def _prelu(rewriter: Rewriter, node: Node) -> str | None:
    """Slopes before opset 7 belong to channels: they get an axis for every spatial one."""
    x, slope = node.inputs[0], node.inputs[1]
    if x is None or slope is None or x.shape is None or slope.shape is None:
        return "the ranks of its inputs are unknown"
    spatial = len(x.shape) - 2
    if spatial > 0 and len(slope.shape) == 1 and slope.shape[0] != 1:
        axes = rewriter.constant(f"{node.label}_axes", [1 + i for i in range(spatial)])
        wide = rewriter.value(f"{node.label}_slope")
        rewriter.insert(node, Node("Unsqueeze", [slope, axes], [wide], version=13))
        rewriter.rewire(node, [x, wide])
    return _without_hints(rewriter, node)


def _without_hints(rewriter: Rewriter, node: Node) -> str | None:
    node.attributes.pop("consumed_inputs", None)
    return None


_REDUCTIONS: Final = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

_BINARY: Final = (
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "Less",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Xor",
)

_CONSUMING: Final = (
    "Abs",
    "Ceil",
    "Elu",
    "Exp",
    "Floor",
    "HardSigmoid",
    "InstanceNormalization",
    "LeakyRelu",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Neg",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sqrt",
    "Sum",
    "Tanh",
)
"""Operators whose first versions carry hints about memory reuse."""

_RULES: Final[dict[str, tuple[_Rule, int]]] = {
    "BatchNormalization": (_batch_normalization, 15),
    "Clip": (_clip, 13),
    "Hardmax": (_softmax, 13),
    "LogSoftmax": (_softmax, 13),
    "PRelu": (_prelu, 7),
    "Pad": (_pad, 13),
    "ReduceSum": (_axes_to_input, 13),
    "Reshape": (_reshape, 14),
    "Resize": (_resize, 13),
    "Scatter": (_scatter, 18),
    "Slice": (_slice, 13),
    "Softmax": (_softmax, 13),
    "Split": (_split, 18),
    "Squeeze": (_axes_to_input, 13),
    "TopK": (_top_k, 11),
    "Unsqueeze": (_axes_to_input, 13),
    "Upsample": (_upsample, 13),
    **dict.fromkeys(_REDUCTIONS, (_axes_to_input, 18)),
    **dict.fromkeys(_BINARY, (_broadcasting, 7)),
    **dict.fromkeys(_CONSUMING, (_without_hints, 6)),
}
"""Rule per operator, and the version whose form it produces."""

"""Sizes that only a run knows, as symbols.

Where an operator takes its starts, pads, axes, shape or count from a graph input or a computed
tensor, the sizes of its output depend on data. ``packhorse.Sizes`` measures such a tensor on the
host and gives its numbers symbols; the program of the nodes behind it is bound when they are known.

- ``Op(x, n) = Op(x, Sizes(n))`` for counts and shapes (Expand, Tile, TopK, Range, Split, ...).
- ``Slice(x, starts, ends, axes, steps) = Window(x, starts', steps', lengths)``, clamped.
- ``Reshape(x, s) = Reshape(x, s')``, ``Squeeze(x, a) = Unsqueeze(x, a) = Reshape(x, s')``, with s'
  free of 0 and -1.
- ``Reduce(x, a) = Reshape(Reduce(Reshape(x, [k0, r0, k1, r1, ...]), [1, 3, ...]), s')`` where
  (ki, ri) is (1, di) for a reduced axis and (di, 1) for any other; which is which may then be
  unknown. CumSum and CumProd likewise over [outer, d, inner].
- A float Range is ``start + delta * [0, 1, ...]`` of a measured count.
- The condition of an If that follows from small integer inputs by integer arithmetic.

A number that follows from graph inputs by arithmetic on sizes alone is measured at the inputs, so
that the program is not cut. Preconditions: the measured tensor has a constant shape of at most one
axis and `MAX_ELEMENTS` elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.elements import MAX_ELEMENTS
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_CARRIED: Final = frozenset(
    {
        *("Add", "And", "Cast", "Concat", "Equal", "Gather", "Greater", "GreaterOrEqual"),
        *("Identity", "Less", "LessOrEqual", "Mul", "Neg", "Not", "Or", "Squeeze", "Sub"),
        *("Unsqueeze", "Xor"),
    }
)
"""Operators through which inference carries the elements of integer and boolean tensors."""

_DEEP: Final = 32
"""Longest chain of arithmetic that is followed back to graph inputs."""


@dataclass
class _Pass:
    """One run of the pass; `roots` are the graph inputs to be measured as they are."""

    graph: Graph
    rewriter: Rewriter
    names: Names
    roots: dict[int, Value] = field(default_factory=dict)

    def sizes(
        self,
        node: Node,
        of: str,
        inputs: list[Value | None],
        count: int | None = None,
        signed: list[int] | None = None,
        **attributes: Any,
    ) -> Value:
        """Output of a new Sizes node before `node`."""
        base = next(v for v in inputs if v is not None).name
        made = Value(self.names.fresh(f"{base}_{of}"))
        attributes |= {"of": of, "signed": signed or []}
        if count is not None:
            attributes["count"] = count
        sizes = Node("Sizes", list(inputs), [made], attributes, OURS, 1, made.name)
        self.rewriter.insert(node, sizes)
        return made

    def measured(self, node: Node, index: int, of: str = "counts") -> bool:
        """Let input `index` be measured; whether it had to be."""
        value = node.input(index)
        if not is_unknown(value):
            return False
        assert value is not None
        if value.producer is not None and self.measure_roots(value):
            return True
        signed = list(range(length(value))) if of == "values" else []
        inputs = list(node.inputs)
        inputs[index] = self.sizes(node, of, [value], signed=signed)
        self.rewriter.rewire(node, inputs)
        return True

    def measure_roots(self, value: Value) -> bool:
        """Measure the graph inputs that a value follows from, where it follows from sizes alone."""
        found: dict[int, Value] = {}
        if not self._roots(value, found, _DEEP) or not found:
            return False
        self.roots.update(found)
        return True

    def _roots(self, value: Value, found: dict[int, Value], depth: int) -> bool:
        if value.is_constant or value.dims is not None:
            return True
        if depth == 0 or value.dtype is None or value.dtype.kind not in "iub":
            return False
        if value.producer is None:
            is_input = any(value is v for v in self.graph.inputs)
            if is_input and is_unknown(value):
                found[id(value)] = value
                return True
            return False
        node = value.producer
        if node.domain or node.op not in _CARRIED:
            return False
        return all(v is None or self._roots(v, found, depth - 1) for v in node.inputs)

    def finish_roots(self) -> int:
        """Put the Sizes nodes of graph inputs first and let everybody read them."""
        made: list[Node] = []
        for value in self.roots.values():
            result = Value(self.names.fresh(f"{value.name}_values"), value.dtype, value.shape)
            self.graph.replace_uses(value, result)
            signed = list(range(length(value)))
            attributes = {"of": "values", "signed": signed}
            node = Node("Sizes", [value], [result], attributes, OURS, 1, result.name)
            result.producer = node
            made.append(node)
        self.graph.nodes[:0] = made
        return len(made)


def runtime_sizes(graph: Graph) -> PassReport:
    """Measure what sizes depend on, in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    roots: dict[int, Value] = {}
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        state = _Pass(graph, rewriter, names, roots)
        for node in rewriter.nodes():
            rule = _RULES.get(node.op)
            if rule is not None and not node.domain:
                rule(state, node)
        changes += rewriter.finish()
    changes += _Pass(graph, Rewriter(graph, names), names, roots).finish_roots()
    return PassReport("runtime_sizes", changes)


def is_unknown(value: Value | None) -> bool:
    """Whether a small integer or boolean tensor of known length is known only to a run."""
    if value is None or value.data is not None or value.dims is not None:
        return False
    if value.kind != "tensor" or value.dtype is None or value.dtype.kind not in "iub":
        return False
    return _is_small(value) and length(value) > 0


def _is_small(value: Value) -> bool:
    if value.shape is None or len(value.shape) > 1 or not all(d.is_constant for d in value.shape):
        return False
    return length(value) <= MAX_ELEMENTS


def length(value: Value) -> int:
    """Elements of a vector or scalar of constant shape."""
    assert value.shape is not None
    return value.shape[0].value if value.shape else 1


def is_unknown_float(value: Value | None) -> bool:
    """As `is_unknown`, of floats."""
    if value is None or value.data is not None or value.dtype is None:
        return False
    return value.dtype.kind == "f" and _is_small(value) and length(value) > 0


def _data(node: Node) -> Value | None:
    """The first input, where its rank is known."""
    value = node.input(0)
    return value if value is not None and value.shape is not None else None


def _counts(*indices: int) -> Callable[[_Pass, Node], None]:
    def apply(state: _Pass, node: Node) -> None:
        for index in indices:
            state.measured(node, index)

    return apply


def _condition(state: _Pass, node: Node) -> None:
    value = node.input(0)
    if is_unknown(value):
        assert value is not None
        state.measure_roots(value)


def _range(state: _Pass, node: Node) -> None:
    parts = [node.input(index) for index in range(3)]
    if all(value is not None and (value.is_constant or value.dims) for value in parts):
        return
    dtype = node.outputs[0].dtype
    if dtype is None or dtype.kind not in "if":
        return
    if dtype.kind == "i":
        for index in range(3):
            state.measured(node, index, "values")
        return
    if not all(v is not None and (v.is_constant or is_unknown_float(v)) for v in parts):
        return
    count = state.sizes(node, "range", parts, 1)
    zero, one = (state.rewriter.constant(n, np.array(i, np.int64)) for n, i in (("0", 0), ("1", 1)))
    scalar = state.rewriter.value(f"{count.name}_scalar")
    axes = state.rewriter.constant("axes", [0])
    steps, floats, scaled = (state.rewriter.value(f"{node.label}_{n}") for n in ("i", "f", "s"))
    number = _onnx_type(dtype)
    state.rewriter.replace(
        node,
        [
            Node("Squeeze", [count, axes], [scalar], version=13),
            Node("Range", [zero, scalar, one], [steps], version=11),
            Node("Cast", [steps], [floats], {"to": number}, version=13),
            Node("Mul", [floats, parts[2]], [scaled], version=14),
            Node("Add", [scaled, parts[0]], list(node.outputs), version=14),
        ],
    )


def _onnx_type(dtype: np.dtype[Any]) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _slice(state: _Pass, node: Node) -> None:
    x = _data(node)
    given = [node.input(index) for index in range(1, 5)]
    if x is None or node.version < 10 or not any(is_unknown(value) for value in given):
        return
    starts, ends, axes, _ = given
    if not has_fixed_size(x) or starts is None or ends is None or not _is_small(starts):
        return
    assert x.shape is not None
    if axes is None:
        cut = list(range(length(starts)))
    elif axes.data is not None:
        cut = [int(axis) % len(x.shape) for axis in axes.data.reshape(-1)]
    else:
        cut = list(range(len(x.shape)))
    count = len(cut)
    signed = list(range(count, 2 * count))
    numbers = state.sizes(node, "slice", [x, *given], 3 * count, signed, axes=cut)
    window = Node("Window", [x, numbers], [], {"axes": cut}, OURS, 1)
    state.rewriter.substitute(node, window)


def _reshape(state: _Pass, node: Node) -> None:
    x, shape = _data(node), node.input(1)
    if x is None or node.version < 5 or not is_unknown(shape):
        return
    assert shape is not None
    rank = length(shape)
    zero = int(node.attribute("allowzero", 0))
    sizes = state.sizes(node, "reshape", [x, shape], rank, allowzero=zero)
    state.rewriter.substitute(node, _reshaped(x, sizes, []))


def _reshaped(x: Value, sizes: Value, outputs: list[Value]) -> Node:
    return Node("Reshape", [x, sizes], outputs, {"allowzero": 1}, version=14)


def _squeeze(state: _Pass, node: Node) -> None:
    x, axes = _data(node), node.input(1)
    if x is None or node.version < 13 or not is_unknown(axes):
        return
    assert x.shape is not None
    assert axes is not None
    more = length(axes) if node.op == "Unsqueeze" else -length(axes)
    sizes = state.sizes(node, node.op.lower(), [x, axes], len(x.shape) + more)
    state.rewriter.substitute(node, _reshaped(x, sizes, []))


def _pad(state: _Pass, node: Node) -> None:
    x, pads, value, axes = _data(node), node.input(1), node.input(2), node.input(3)
    if x is None or node.version < 11 or not has_fixed_size(x):
        return
    assert x.shape is not None
    inputs = list(node.inputs)
    attributes, domain = dict(node.attributes), ""
    if is_unknown(pads) or is_unknown(axes):
        if pads is None or (axes is not None and not _is_small(axes)):
            return
        count = 2 * len(x.shape)
        inputs[1] = state.sizes(node, "pads", [x, pads, axes], count, list(range(count)))
        inputs[3:] = []
    if value is not None and value.data is None and _is_small(value) and length(value) == 1:
        inputs[2] = state.sizes(node, "pattern", [value], 1, [0])
        domain = OURS
    if any(a is not b for a, b in zip(inputs, node.inputs, strict=False)):
        state.rewriter.substitute(node, Node("Pad", inputs, [], attributes, domain, node.version))


def _resize(state: _Pass, node: Node) -> None:
    x = _data(node)
    modern = node.op == "Resize" and node.version >= 11
    scales, roi = node.input(2 if modern else 1), node.input(1) if modern else None
    wanted = node.input(3) if modern else None
    if x is None or not _is_resizable(node, x) or (node.op == "Upsample" and node.version < 9):
        return
    assert x.shape is not None
    axes = [int(a) % len(x.shape) for a in node.attribute("axes") or range(len(x.shape))]
    count, signed = len(axes), list(range(len(axes)))
    policy = str(node.attribute("keep_aspect_ratio_policy", "stretch"))
    sizes: Value | None = wanted
    bits: Value | None = None
    if is_unknown(wanted):
        if policy == "stretch":
            sizes = state.sizes(node, "counts", [wanted])
        else:
            settings: dict[str, Any] = {"axes": axes, "policy": policy}
            sizes = state.sizes(node, "fit", [x, wanted], count, **settings)
            bits = state.sizes(node, "fit_scales", [x, wanted], count, signed, **settings)
    elif is_unknown_float(scales):
        assert scales is not None
        # ONNX's reference lets corners meet at size * scale, ours at the whole number below.
        corners = node.attribute("coordinate_transformation_mode") == "align_corners"
        if length(scales) != count or corners:
            return
        sizes = state.sizes(node, "resize", [x, scales], count, axes=axes)
        bits = state.sizes(node, "bits", [scales], count, signed)
    elif wanted is None or not is_unknown_float(roi):
        return
    if is_unknown_float(roi):
        assert roi is not None
        roi = state.sizes(node, "bits", [roi], length(roi), list(range(length(roi))))
    attributes = {k: v for k, v in node.attributes.items() if k != "keep_aspect_ratio_policy"}
    if not modern:
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    state.rewriter.substitute(node, Node("Resize", [x, roi, bits, sizes], [], attributes, OURS, 1))


def _is_resizable(node: Node, x: Value) -> bool:
    """Whether kernels resize the data type in the node's mode."""
    if str(node.attribute("mode", "nearest")) == "nearest":
        return has_fixed_size(x)
    return str(x.dtype) in ("float32", "float64")


def has_fixed_size(value: Value) -> bool:
    """Whether kernels move the elements of a tensor."""
    dtype = value.dtype
    return dtype is not None and dtype.kind != "O" and dtype.itemsize in (1, 2, 4, 8)


def _reduce(state: _Pass, node: Node) -> None:
    x, axes = _data(node), node.input(1)
    if x is None or axes is None or axes.data is not None or axes.dims is not None:
        return
    rank, keep = len(x.shape or ()), bool(node.attribute("keepdims", 1))
    # How many axes there are matters only where they go.
    if str(axes.dtype) != "int64" or not (keep or is_unknown(axes)) or axes.shape == (Dim.of(0),):
        return
    options: dict[str, Any] = {
        "keepdims": int(keep),
        "noop": int(node.attribute("noop_with_empty_axes", 0)),
    }
    pairs = state.sizes(node, "reduce", [x, axes], 2 * rank, **options)
    final = state.sizes(node, "kept", [x, axes], rank - (0 if keep else length(axes)), **options)
    split, reduced = (state.rewriter.value(f"{node.label}_{n}") for n in ("pairs", "reduced"))
    odd = state.rewriter.constant("axes", list(range(1, 2 * rank, 2)))
    version = max(node.version, 18)
    state.rewriter.replace(
        node,
        [
            _reshaped(x, pairs, [split]),
            Node(node.op, [split, odd], [reduced], {"keepdims": 0}, version=version),
            _reshaped(reduced, final, list(node.outputs)),
        ],
    )


def _scan_axis(state: _Pass, node: Node) -> None:
    x, axis = _data(node), node.input(1)
    if x is None or not is_unknown(axis):
        return
    parts = state.sizes(node, "axis", [x, axis], 3)
    split, summed, shape = (state.rewriter.value(f"{node.label}_{n}") for n in ("s", "c", "shape"))
    one = state.rewriter.constant("axis", np.array(1, np.int64))
    state.rewriter.replace(
        node,
        [
            _reshaped(x, parts, [split]),
            Node(node.op, [split, one], [summed], dict(node.attributes), version=node.version),
            Node("Shape", [x], [shape], version=15),
            _reshaped(summed, shape, list(node.outputs)),
        ],
    )


_REDUCTIONS: Final = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

_RULES: Final[dict[str, Callable[[_Pass, Node], None]]] = {
    "AffineGrid": _counts(1),
    "BlackmanWindow": _counts(0),
    "CenterCropPad": _counts(1),
    "ConstantOfShape": _counts(0),
    "CumProd": _scan_axis,
    "CumSum": _scan_axis,
    "Expand": _counts(1),
    "HammingWindow": _counts(0),
    "HannWindow": _counts(0),
    "If": _condition,
    "OneHot": _counts(1),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _counts(1),
    "Squeeze": _squeeze,
    "Tile": _counts(1),
    "TopK": _counts(1),
    "Unsqueeze": _squeeze,
    "Upsample": _resize,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}

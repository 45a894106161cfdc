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
  unknown. CumSum and CumProd likewise over [outer, d, inner], and
  DFT over [outer, d, inner, parts].
- A float Range is ``start + delta * [0, 1, ...]`` of a measured count.
- The number of iterations of a Loop that stacks outputs and that nothing else can end.
- The condition of an If that follows from small integer inputs by integer arithmetic.

A number that follows from graph inputs by arithmetic on sizes alone is measured at the inputs, so
that the program is not cut. Preconditions: the measured tensor has a constant shape of at most one
axis and `MAX_ELEMENTS` elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.control import runs_all
from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.measured_movement import (
    measured_pad,
    measured_reshape,
    measured_resize,
    measured_slice,
    measured_squeeze,
)
from engine.graph.passes.measuring import (
    Measuring,
    data,
    elements,
    is_unknown,
    is_unknown_float,
    length,
    reshaped,
)
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs


def runtime_sizes(graph: Graph) -> PassReport:
    """Measure what sizes depend on, in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    roots: dict[int, Value] = {}
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        state = Measuring(graph, rewriter, names, roots)
        for node in rewriter.nodes():
            rule = _RULES.get(node.op)
            if rule is not None and not node.domain:
                rule(state, node)
        changes += rewriter.finish()
    changes += Measuring(graph, Rewriter(graph, names), names, roots).finish_roots()
    return PassReport("runtime_sizes", changes)


def _counts(*indices: int) -> Callable[[Measuring, Node], None]:
    def apply(state: Measuring, node: Node) -> None:
        for index in indices:
            state.measured(node, index)

    return apply


def _condition(state: Measuring, node: Node) -> None:
    value = node.input(0)
    if is_unknown(value):
        assert value is not None
        state.measure_roots(value)


def _trips(state: Measuring, node: Node) -> None:
    body: Graph = node.attribute("body")
    carried = len(node.inputs[2:])
    if any(value.name for value in node.outputs[carried:]) and runs_all(node, body, elements):
        state.measured(node, 0, "values")


def _range(state: Measuring, node: Node) -> None:
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


def _reduce(state: Measuring, node: Node) -> None:
    x, axes = data(node), node.input(1)
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
            reshaped(x, pairs, [split]),
            Node(node.op, [split, odd], [reduced], {"keepdims": 0}, version=version),
            reshaped(reduced, final, list(node.outputs)),
        ],
    )


def _scan_axis(state: Measuring, node: Node) -> None:
    x, axis = data(node), node.input(1)
    if x is None or not is_unknown(axis):
        return
    parts = state.sizes(node, "axis", [x, axis], 3)
    split, summed, shape = (state.rewriter.value(f"{node.label}_{n}") for n in ("s", "c", "shape"))
    one = state.rewriter.constant("axis", np.array(1, np.int64))
    state.rewriter.replace(
        node,
        [
            reshaped(x, parts, [split]),
            Node(node.op, [split, one], [summed], dict(node.attributes), version=node.version),
            Node("Shape", [x], [shape], version=15),
            reshaped(summed, shape, list(node.outputs)),
        ],
    )


def _transform(state: Measuring, node: Node) -> None:
    state.measured(node, 1)
    x, given, axis = data(node), node.input(1), node.input(2)
    if x is None or not x.shape or not x.shape[-1].is_constant or not is_unknown(axis):
        return
    before = state.sizes(node, "lines", [x, axis], 3)
    parts = state.rewriter.constant("parts", [x.shape[-1].value])
    options: dict[str, Any] = {
        name: int(node.attribute(name, 0)) for name in ("inverse", "onesided")
    }
    final = state.sizes(node, "spectrum", [x, axis, given], len(x.shape or ()), **options)
    shape, lines, spectra = (
        state.rewriter.value(f"{node.label}_{name}") for name in ("shape", "lines", "spectra")
    )
    one = state.rewriter.constant("axis", np.array(1, np.int64))
    state.rewriter.replace(
        node,
        [
            Node("Concat", [before, parts], [shape], {"axis": 0}, version=13),
            reshaped(x, shape, [lines]),
            Node("DFT", [lines, given, one], [spectra], options, version=node.version),
            reshaped(spectra, final, list(node.outputs)),
        ],
    )


_REDUCTIONS: Final = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

_RULES: Final[dict[str, Callable[[Measuring, Node], None]]] = {
    "AffineGrid": _counts(1),
    "BlackmanWindow": _counts(0),
    "CenterCropPad": _counts(1),
    "Col2Im": _counts(1, 2),
    "ConstantOfShape": _counts(0),
    "CumProd": _scan_axis,
    "CumSum": _scan_axis,
    "DFT": _transform,
    "Expand": _counts(1),
    "HammingWindow": _counts(0),
    "HannWindow": _counts(0),
    "If": _condition,
    "Loop": _trips,
    "OneHot": _counts(1),
    "Pad": measured_pad,
    "Range": _range,
    "Reshape": measured_reshape,
    "Resize": measured_resize,
    "STFT": _counts(1, 3),
    "Slice": measured_slice,
    "Split": _counts(1),
    "Squeeze": measured_squeeze,
    "Tile": _counts(1),
    "TopK": _counts(1),
    "Unsqueeze": measured_squeeze,
    "Upsample": measured_resize,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}

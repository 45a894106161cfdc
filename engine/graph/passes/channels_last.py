"""Channels-last layout through the network.

A convolution ``y = conv(x)`` on x [N, C, S...] is ``transpose(packhorse.Conv(transpose(x)))`` with
the channel axis moved last and back. Instead of inserting these transposes, the pass keeps every
value as a *view*: ``value = transpose(base, perm)``. Operators that commute with a transpose
(element by element, or along an axis that can be renamed) are rewritten to work on the bases, and
their results are views again; only where another operator, or a graph output, reads a view is the
transpose written down. Transposes of the model itself are views too, so opposite ones meet and
vanish: inside a network of convolutions none is left.

Preconditions: convolutions have constant float32 weights and a bias known to be a vector; an
element-wise operator is moved only if all its full-size inputs are views by one permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.onnx_expression import ELEMENTWISE_OPERATORS
from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value, subgraphs
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, all_graphs, constant_value
from engine.graph.passes.transposes import permutation
from engine.graph.passes.views import Perm, Views, inverse

_ONE: Final = Dim.of(1)

_AXES: Final = 3
"""Spatial axes of a convolution."""

_POOLS: Final = frozenset(
    {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"}
)
_ALONG_AXIS: Final = {
    "Concat": None,
    "Split": 0,
    "Softmax": -1,
    "LogSoftmax": -1,
    "ArgMax": 0,
    "ArgMin": 0,
    "Gather": 0,
    "CumSum": None,
}
"""Operators along one axis, with the attribute's default (None: it must be given)."""

_REDUCTIONS: Final = frozenset(
    f"Reduce{kind}"
    for kind in (
        "Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare",
    )
)  # fmt: skip


def channels_last(graph: Graph) -> PassReport:
    """Lay out the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    notes: list[str] = []
    for inner in all_graphs(graph):
        layout = _Layout(inner, names)
        changes += layout.run()
        notes.extend(layout.notes)
    return PassReport("channels_last", changes, notes)


def constant_shape(value: Value) -> tuple[int, ...] | None:
    """Shape of a tensor of fixed size."""
    if value.shape is None or not all(dim.is_constant for dim in value.shape):
        return None
    return tuple(dim.value for dim in value.shape)


def _has_kernel(node: Node, window: Sequence[int]) -> bool:
    """Whether the dot kernel walks the window: over three axes at most, and in plain forms."""
    if len(window) > _AXES:
        return False
    if node.op == "Conv":
        return True
    plain = node.attribute("auto_pad", "NOTSET") == "NOTSET"
    flat = all(step == 1 for step in node.attribute("dilations") or ())
    whole = node.attribute("group", 1) == 1 and not node.attribute("output_shape")
    return plain and flat and whole


class _Layout:
    def __init__(self, graph: Graph, names: Names) -> None:
        self.graph = graph
        self.names = names
        self.notes: list[str] = []
        self.views = Views(names)

    def run(self) -> int:
        for node in self.graph.nodes:
            if not self._rewrite(node):
                for value in self._reads(node):
                    self.views.write_down(value)
                self.views.nodes.append(node)
        for value in self.graph.outputs:
            self.views.write_down(value)
        self.graph.nodes = self.views.nodes
        return self.views.changes

    @staticmethod
    def _reads(node: Node) -> list[Value]:
        found = [value for value in node.inputs if value is not None]
        for inner in subgraphs(node):
            found.extend(inner.captures)
        return found

    def _rewrite(self, node: Node) -> bool:
        if node.domain or any(v.kind != "tensor" for v in self._reads(node)):
            return False
        if any(value.dims is not None for value in node.outputs):
            return False
        rule: Callable[[Node], bool] | None = None
        if node.op in ("Conv", "ConvTranspose"):
            rule = self._conv
        elif node.op in _POOLS:
            rule = self._pool
        elif node.op == "RoiAlign":
            rule = self._regions
        elif node.op == "Transpose":
            rule = self._transpose
        elif not any(value in self.views for value in self._reads(node)):
            return False
        elif node.op in ELEMENTWISE_OPERATORS:
            rule = self._elementwise
        elif node.op in _ALONG_AXIS:
            rule = self._along_axis
        elif node.op in _REDUCTIONS:
            rule = self._reduce
        elif node.op == "Pad":
            rule = self._pad
        elif node.op == "Slice":
            rule = self._slice
        elif node.op == "Resize":
            rule = self._resize
        return rule is not None and rule(node)

    def _transpose(self, node: Node) -> bool:
        perm, source = permutation(node), node.inputs[0]
        if perm is None or source is None or source.shape is None:
            return False
        base, own = self.views.base(source)
        self.views.add(node.outputs[0], base, tuple(own[axis] for axis in perm))
        return True

    def _channel_perms(self, value: Value) -> tuple[Perm, Perm]:
        """Permutations to channels-last and back."""
        forward = (0, *range(2, value.rank), 1)
        return forward, inverse(forward)

    def _conv(self, node: Node) -> bool:
        x, weight, bias = node.inputs[0], node.inputs[1], node.input(2)
        assert x is not None
        assert weight is not None
        filters = constant_shape(weight)
        if x.shape is None or x.dtype != np.float32 or filters is None:
            self.notes.append(f"{node.label}: its weights are of no fixed size, or not float32")
            return False
        if node.op == "ConvTranspose" and weight.data is None:
            self.notes.append(f"{node.label}: its weights are computed")
            return False
        if len(filters) != x.rank or not _has_kernel(node, filters[2:]):
            self.notes.append(f"{node.label}: its window, or its form, has no kernel")
            return False
        if weight.data is None:
            self.views.write_down(weight)
        forward, back = self._channel_perms(x)
        inputs: list[Value | None] = [self.views.in_layout(x, forward), weight]
        attributes: dict[str, object] = {"epilogue": None, "access": []}
        if bias is not None:
            if bias.data is None:
                self.views.write_down(bias)
            inputs.append(bias)
            sum_ = Expr.of("add", Expr.input(0, "float32"), Expr.input(1, "float32"))
            attributes = {"epilogue": sum_, "access": ["column"]}
        return self.views.replace(node, inputs, back, attributes, OURS)

    def _pool(self, node: Node) -> bool:
        x = node.inputs[0]
        assert x is not None
        if x.shape is None or len(node.outputs) > 1 or not 3 <= x.rank <= 5:
            return False
        if node.attribute("storage_order", 0) or x.dtype != np.float32:
            return False
        if node.op == "LpPool" and node.attribute("p", 2) not in (1, 2):
            return False
        forward, back = self._channel_perms(x)
        return self.views.replace(node, [self.views.in_layout(x, forward)], back, None, OURS)

    def _regions(self, node: Node) -> bool:
        x = node.inputs[0]
        assert x is not None
        if x.shape is None or x.rank != 4 or x.dtype != np.float32:
            return False
        for value in node.inputs[1:]:
            if value is not None:
                self.views.write_down(value)
        forward, back = self._channel_perms(x)
        return self.views.replace(
            node, [self.views.in_layout(x, forward), *node.inputs[1:]], back, None, OURS
        )

    def _common_perm(self, values: Sequence[Value | None], rank: int) -> Perm | None:
        """The permutation by which all full-size inputs are views, None where they differ."""
        perms = {
            self.views.base(value)[1]
            for value in values
            if value is not None and value.shape is not None
            and not self._is_small(value) and not (value.is_constant and value.rank <= rank)
        }  # fmt: skip
        if len(perms) != 1:
            return None
        perm = perms.pop()
        return perm if len(perm) == rank and perm != tuple(range(rank)) else None

    @staticmethod
    def _is_small(value: Value) -> bool:
        return value.shape is not None and all(dim == _ONE for dim in value.shape)

    def _elementwise(self, node: Node) -> bool:
        output = node.outputs[0]
        if output.shape is None or any(v is None or v.shape is None for v in node.inputs[:1]):
            return False
        rank = output.rank
        perm = self._common_perm(node.inputs, rank)
        if perm is None:
            return False
        inputs: list[Value | None] = []
        for value in node.inputs:
            if value is None:
                inputs.append(None)
            elif self._is_small(value):
                self.views.write_down(value)
                inputs.append(value if value.rank <= rank else None)
            elif value.data is not None:
                data = value.data.reshape((1,) * (rank - value.data.ndim) + value.data.shape)
                turned = np.ascontiguousarray(data.transpose(inverse(perm)))
                inputs.append(constant_value(self.names.fresh(f"{value.name}.last"), turned))
            else:
                inputs.append(self.views.base(value)[0])
        return self.views.replace(node, inputs, perm)

    def _along_axis(self, node: Node) -> bool:
        output = node.outputs[0]
        if output.shape is None:
            return False
        operands = node.inputs if node.op == "Concat" else node.inputs[:1]
        source = operands[0]
        if source is None or source.shape is None:
            return False
        rank = source.rank
        perm = self._common_perm(operands, rank)
        if perm is None or any(
            v is None or (v.is_constant and node.op == "Concat") or self._is_small(v)
            for v in operands
        ):
            return False
        axis = node.attribute("axis", _ALONG_AXIS[node.op])
        if node.op == "CumSum" or axis is None:
            return False
        axis %= rank
        if node.op == "Gather":
            indices = node.inputs[1]
            if indices is None or indices.shape is None or indices.rank != 1:
                return False
        if node.op in ("ArgMax", "ArgMin") and not node.attribute("keepdims", 1):
            return False
        if node.op in ("Softmax", "LogSoftmax") and node.version < 13:
            return False
        for value in node.inputs[len(operands) :]:
            if value is not None:
                self.views.write_down(value)
        inputs = [*(self.views.base(v)[0] for v in operands if v is not None)]
        rest = node.inputs[len(operands) :]
        return self.views.replace(node, [*inputs, *rest], perm, {"axis": perm[axis]})

    def _axes(self, node: Node, index: int) -> list[int] | None:
        """Axes from input `index` or the attribute; None where they are computed."""
        value = node.input(index)
        if value is not None:
            return None if value.data is None else [int(a) for a in value.data.reshape(-1)]
        given = node.attribute("axes")
        return None if given is None else list(given)

    def _reduce(self, node: Node) -> bool:
        source = node.inputs[0]
        assert source is not None
        axes = self._axes(node, 1)
        if source.shape is None or not axes or source not in self.views:
            return False
        base, perm = self.views.base(source)
        rank = len(perm)
        moved = [perm[axis % rank] for axis in axes]
        result = perm
        if not node.attribute("keepdims", 1):
            kept = [axis for axis in range(rank) if axis not in [a % rank for a in axes]]
            left = sorted(perm[axis] for axis in kept)
            result = tuple(left.index(perm[axis]) for axis in kept)
        inputs: list[Value | None] = [base]
        attributes: dict[str, object] = {}
        if node.input(1) is not None:
            inputs.append(self._integers(node, "axes", moved))
        else:
            attributes["axes"] = moved
        return self.views.replace(node, inputs, result, attributes)

    def _integers(self, node: Node, what: str, numbers: Sequence[int]) -> Value:
        name = self.names.fresh(f"{node.label}.{what}")
        return constant_value(name, np.array(numbers, np.int64))

    def _pad(self, node: Node) -> bool:
        source, pads = node.inputs[0], node.input(1)
        assert source is not None
        if source not in self.views or pads is None or pads.data is None:
            return False
        base, perm = self.views.base(source)
        rank = len(perm)
        axes = self._axes(node, 3) if node.input(3) is not None else list(range(rank))
        if axes is None:
            return False
        given = [int(p) for p in pads.data.reshape(-1)]
        moved = [0] * (2 * rank)
        for place, axis in enumerate(axes):
            moved[perm[axis % rank]] = given[place]
            moved[rank + perm[axis % rank]] = given[len(axes) + place]
        inputs = [base, self._integers(node, "pads", moved), node.input(2)]
        return self.views.replace(node, inputs, perm)

    def _slice(self, node: Node) -> bool:
        source = node.inputs[0]
        assert source is not None
        if source not in self.views or node.input(3) is None:
            return False
        axes = self._axes(node, 3)
        if axes is None:
            return False
        base, perm = self.views.base(source)
        moved = self._integers(node, "axes", [perm[axis % len(perm)] for axis in axes])
        inputs = [base, node.inputs[1], node.inputs[2], moved, node.input(4)]
        return self.views.replace(node, inputs, perm)

    def _resize(self, node: Node) -> bool:
        source = node.inputs[0]
        assert source is not None
        if source not in self.views or node.attribute("axes") or node.version < 11:
            return False
        base, perm = self.views.base(source)
        order = inverse(perm)
        inputs: list[Value | None] = [base]
        for index in range(1, 4):
            value = node.input(index)
            if value is None or value.data is None or value.data.size == 0:
                if value is not None and value.data is None:
                    return False
                inputs.append(value)
                continue
            data = value.data
            if index == 1:
                data = np.concatenate(
                    [data[: len(order)][list(order)], data[len(order) :][list(order)]]
                )
            else:
                data = data[list(order)]
            inputs.append(constant_value(self.names.fresh(f"{value.name}.last"), data))
        return self.views.replace(node, inputs, perm)

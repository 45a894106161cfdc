"""Measuring: which tensors a run's sizes are read from, and the nodes that read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from engine.graph.dims import Dim
from engine.graph.inference.elements import MAX_ELEMENTS
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.rewrite import Names, Rewriter

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
class Measuring:
    """One run over a graph; `roots` are the graph inputs to be measured as they are."""

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


def elements(value: Value) -> list[Dim] | None:
    """Elements of a small integer or boolean tensor where they are known before a run."""
    if value.data is not None:
        if value.data.dtype.kind not in "iub" or value.data.size > MAX_ELEMENTS:
            return None
        return [Dim.of(int(element)) for element in value.data.reshape(-1)]
    return None if value.dims is None else list(value.dims)


def is_unknown(value: Value | None) -> bool:
    """Whether a small integer or boolean tensor of known length is known only to a run."""
    if value is None or value.data is not None or value.dims is not None:
        return False
    if value.kind != "tensor" or value.dtype is None or value.dtype.kind not in "iub":
        return False
    return is_small(value) and length(value) > 0


def is_small(value: Value) -> bool:
    """Whether a tensor is a scalar or vector of constant length, within `MAX_ELEMENTS`."""
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
    return value.dtype.kind == "f" and is_small(value) and length(value) > 0


def data(node: Node) -> Value | None:
    """The first input, where its rank is known."""
    value = node.input(0)
    return value if value is not None and value.shape is not None else None


def has_fixed_size(value: Value) -> bool:
    """Whether kernels move the elements of a tensor."""
    dtype = value.dtype
    return dtype is not None and dtype.kind != "O" and dtype.itemsize in (1, 2, 4, 8)


def reshaped(x: Value, sizes: Value, outputs: list[Value]) -> Node:
    """A Reshape to sizes in which 0 means 0."""
    return Node("Reshape", [x, sizes], outputs, {"allowzero": 1}, version=14)

"""Writing the nodes that an operator is expanded to, with types and sizes known at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import helper

from engine.graph.dims import Dim
from engine.graph.ir import AnyArray, Node, Value

if TYPE_CHECKING:
    from engine.graph.passes.rewrite import Names

_VERSION: Final = {"Attention": 23}
"""Versions of operators that kernels know in an older form than the newest."""


class Unsupported(Exception):  # noqa: N818 - a verdict that becomes an error naming the node
    """The operator is used in a form that has no expansion; the text says which."""


class Body:
    """Nodes in the place of one `node`.

    ``body("Add", a, b)`` appends a node and gives its output; `infer` fills in its data type and
    shape, so that rules can ask for those of everything they compute.
    """

    def __init__(self, node: Node, names: Names, infer: Callable[[Node], None]) -> None:
        self.node = node
        self.nodes: list[Node] = []
        self._names = names
        self._infer = infer
        self._given: dict[int, Value] = {}

    def __call__(
        self, op: str, *inputs: Value | None, domain: str = "", **attributes: Any
    ) -> Value:
        """Append a node of one output."""
        return self.several(op, 1, *inputs, domain=domain, **attributes)[0]

    def several(
        self, op: str, count: int, *inputs: Value | None, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """Append a node of `count` outputs."""
        read = list(inputs)
        while read and read[-1] is None:
            read.pop()
        outputs = [Value(self._names.fresh(f"{self.node.label}/{op}")) for _ in range(count)]
        version = _VERSION.get(op, 0) or _newest(op, domain)
        name = f"{self.node.label}/{op}"
        made = Node(op, read, outputs, attributes, domain, version, name)
        for value in outputs:
            value.producer = made
        self.nodes.append(made)
        self._infer(made)
        return outputs

    def give(self, index: int, value: Value | None) -> None:
        """Let `value` be output `index` of the node; an output that it lacks is ignored."""
        if value is None or not self.wants(index):
            return
        output = self.node.outputs[index]
        made = any(value is v for n in self.nodes for v in n.outputs)
        if not made or id(value) in self._given:
            value = self("Identity", value)
        self._given[id(value)] = output

    def finish(self) -> list[Node]:
        """The nodes, computing the outputs of the expanded node. Raises `Unsupported`."""
        for output in self.node.outputs:
            if output.name and not any(given is output for given in self._given.values()):
                raise Unsupported(f"its output {output.name!r} is not provided on CPUs")
        for made in self.nodes:
            made.inputs = [v if v is None else self._given.get(id(v), v) for v in made.inputs]
            for index, value in enumerate(made.outputs):
                output = self._given.get(id(value), value)
                if output is not value:
                    output.dtype, output.shape, output.kind = value.dtype, value.shape, value.kind
                    output.producer = made
                    made.outputs[index] = output
        return self.nodes

    def wants(self, index: int) -> bool:
        """Whether output `index` exists."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def input(self, index: int) -> Value:
        """Input `index`, which must be given."""
        value = self.node.input(index)
        if value is None:
            raise Unsupported(f"its input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Input `index`, None where it is omitted."""
        return self.node.input(index)

    def refuse_inputs(self, **indices: int) -> None:
        """Raise `Unsupported` where one of the named inputs is given."""
        for name, index in indices.items():
            if self.node.input(index) is not None:
                raise Unsupported(f"its input {name} is not supported")

    def attribute(self, name: str, default: Any = None) -> Any:
        """Attribute `name` or its default."""
        return self.node.attributes.get(name, default)

    def constant(self, data: AnyArray) -> Value:
        """A constant."""
        shape = tuple(Dim.of(size) for size in data.shape)
        return Value(self._names.fresh(f"{self.node.label}/constant"), data.dtype, shape, data)

    def ints(self, *items: int) -> Value:
        """An int64 vector."""
        return self.constant(np.array(items, np.int64))

    def like(self, number: float, value: Value) -> Value:
        """A scalar constant of the data type of `value`."""
        return self.constant(np.array(number, dtype_of(value)))

    def cast(self, value: Value, dtype: Any) -> Value:
        """`value` converted to a data type."""
        kind = np.dtype(dtype)
        if value.dtype == kind:
            return value
        return self("Cast", value, to=int(helper.np_dtype_to_tensor_dtype(kind)))

    def transpose(self, value: Value, *order: int) -> Value:
        """`value` with its axes in another order."""
        return self("Transpose", value, perm=list(order))

    def reshape(self, value: Value, *shape: int) -> Value:
        """`value` in another shape; 0 keeps an axis, -1 follows from the rest."""
        return self("Reshape", value, self.ints(*shape))

    def add(self, first: Value, *others: Value | None) -> Value:
        """Sum of the operands that are given."""
        for other in others:
            if other is not None:
                first = self("Add", first, other)
        return first

    def size(self, value: Value, axis: int) -> Value:
        """Length of an axis as an int64 vector of one element."""
        shape = self("Shape", value)
        return self("Gather", shape, self.ints(axis), axis=0)


def _newest(op: str, domain: str) -> int:
    from onnx import defs

    if domain:
        return 1
    return int(defs.get_schema(op, domain).since_version)


def shape_of(value: Value) -> tuple[Dim, ...]:
    """Shape of a value. Raises `Unsupported` where its rank is unknown."""
    if value.shape is None:
        raise Unsupported(f"the rank of {value.name!r} is unknown")
    return value.shape


def rank_of(value: Value) -> int:
    """Number of axes. Raises `Unsupported` where it is unknown."""
    return len(shape_of(value))


def dtype_of(value: Value) -> np.dtype[Any]:
    """Data type. Raises `Unsupported` where it is unknown."""
    if value.dtype is None:
        raise Unsupported(f"the data type of {value.name!r} is unknown")
    return value.dtype


def known_size(value: Value, axis: int) -> int:
    """Length of an axis that the model fixes. Raises `Unsupported` elsewhere."""
    dim = shape_of(value)[axis]
    if not dim.is_constant:
        raise Unsupported(f"axis {axis} of {value.name!r} has no fixed length")
    return dim.value


def constant_of(value: Value | None, what: str) -> AnyArray:
    """Data of a constant. Raises `Unsupported` where it is none."""
    if value is None or value.data is None:
        raise Unsupported(f"{what} must be a constant")
    return value.data


def one_of(value: Any, allowed: Sequence[Any], what: str) -> Any:
    """`value` where it is allowed. Raises `Unsupported` elsewhere."""
    if value not in allowed:
        raise Unsupported(f"{what} {value!r} is not supported; only {', '.join(map(str, allowed))}")
    return value

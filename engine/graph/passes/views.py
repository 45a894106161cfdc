"""Values kept as transposed views of others, while a graph is rewritten node by node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.graph.ir import Node, Value
from engine.graph.passes.rewrite import Names, constant_value

Perm = tuple[int, ...]


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes `perm`."""
    result = [0] * len(perm)
    for place, axis in enumerate(perm):
        result[axis] = place
    return tuple(result)


class Views:
    """Views ``value = transpose(base, perm)``, and the nodes of the graph that is being made.

    Transposes are written down where somebody needs the value itself, each once.
    """

    def __init__(self, names: Names) -> None:
        self.nodes: list[Node] = []
        self.changes = 0
        self._names = names
        self._views: dict[int, tuple[Value, Perm]] = {}
        self._written: set[int] = set()
        self._turned: dict[tuple[int, Perm], Value] = {}

    def __contains__(self, value: Value) -> bool:
        return id(value) in self._views

    def add(self, value: Value, base: Value, perm: Perm) -> None:
        """Keep a value as a view."""
        self._views[id(value)] = base, perm

    def base(self, value: Value) -> tuple[Value, Perm]:
        """What a value is a view of, and by which permutation; itself by none."""
        found = self._views.get(id(value))
        if found is not None:
            return found
        return value, tuple(range(value.rank))

    def write_down(self, value: Value) -> None:
        """Compute a view with an explicit transpose, once."""
        if id(value) in self._views and id(value) not in self._written:
            base, perm = self._views[id(value)]
            node = Node("Transpose", [base], [value], {"perm": list(perm)}, version=13)
            node.name = f"{value.name}.transpose"
            value.producer = node
            self.nodes.append(node)
            self._written.add(id(value))

    def in_layout(self, value: Value, perm: Perm) -> Value:
        """``transpose(value, perm)``: a base as it stands, or a new transpose of it."""
        base, own = self.base(value)
        total = tuple(own[axis] for axis in perm)
        if total == tuple(range(len(total))):
            return base
        key = (id(base), total)
        if key not in self._turned:
            if base.data is not None:
                data = np.ascontiguousarray(base.data.transpose(total))
                self._turned[key] = constant_value(self._names.fresh(f"{base.name}.last"), data)
            else:
                self._turned[key] = self._new(base, total)
                node = Node(
                    "Transpose", [base], [self._turned[key]], {"perm": list(total)}, version=13
                )
                self._emit(node)
        return self._turned[key]

    def _new(self, like: Value, perm: Perm) -> Value:
        """Value for ``transpose(like, perm)``."""
        shape = None if like.shape is None else tuple(like.shape[axis] for axis in perm)
        return Value(self._names.fresh(f"{like.name}.last"), like.dtype, shape)

    def _emit(self, node: Node) -> None:
        for value in node.outputs:
            value.producer = node
        self.nodes.append(node)

    def replace(
        self,
        node: Node,
        inputs: list[Value | None],
        perm: Perm,
        attributes: dict[str, object] | None = None,
        domain: str = "",
    ) -> bool:
        """Emit `node` on bases; its outputs become views by `perm`. Always True."""
        outputs: list[Value] = []
        for value in node.outputs:
            base = self._new(value, inverse(perm)) if value.name else Value("")
            if value.name:
                self._views[id(value)] = (base, perm)
            outputs.append(base)
        merged = dict(node.attributes, **(attributes or {}))
        made = Node(node.op, inputs, outputs, merged, domain, node.version, node.label)
        self._emit(made)
        self.changes += 1
        return True

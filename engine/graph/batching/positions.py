"""Row positions: models that find their own row of a flattened batch by computing its index.

Exporters write a per-row lookup into a mask as ``Gather(Flatten(mask), Range(N) * length +
Range(length))``. Row n keeps to itself where every index lies in ``[n * k, (n + 1) * k)`` and the
flattened tensor has ``N * k`` entries. So integer values are followed as ``n * stride + offset``
with ``0 <= offset < bound``.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.graph.batching.rows import RULES, Refusal, Rows
from engine.graph.dims import Dim
from engine.graph.ir import Node, Value

_MOVEMENT = ("Cast", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Position:
    """Elements ``n * stride + offset`` with ``0 <= offset < bound``; stride 0 without the row n."""

    stride: Dim
    bound: Dim


class Positions:
    """Which values hold row positions, or offsets within a row."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._known: dict[int, Position] = {}

    def get(self, value: Value | None) -> Position | None:
        """What is known of a value."""
        return None if value is None else self._known.get(id(value))

    def depends_on_row(self, value: Value) -> bool:
        """Whether the value holds positions of rows."""
        found = self.get(value)
        return found is not None and found.stride != 0

    def follow_free(self, node: Node) -> None:
        """Note the offsets that a node computes without the batch."""
        if node.domain or len(node.outputs) != 1:
            return
        found = None
        if node.op == "Range":
            found = self._ramp(node, Dim.of(0))
        elif node.op in _MOVEMENT:
            found = self.get(node.input(0))
        if found is not None:
            self._known[id(node.outputs[0])] = found

    def follow(self, node: Node) -> bool:
        """Follow a node that computes with positions; False where it does not."""
        if node.domain or len(node.outputs) != 1:
            return False
        output = node.outputs[0]
        if node.op == "Range":
            found = self._ramp(node, Dim.of(1))
            axis: int | None = 0
        elif not any(self.depends_on_row(value) for value in node.inputs if value is not None):
            return False
        elif node.op == "Gather":
            axis, found = self._gather(node), None
        elif node.op in _MOVEMENT:
            found = self.get(node.input(0))
            axis = self._axis(node)
        elif node.op in ("Add", "Mul"):
            found = self._add(node) if node.op == "Add" else self._multiply(node)
            axis = self._axis(node)
        else:
            found, axis = None, None
        if axis is None or (found is None and node.op != "Gather"):
            raise Refusal("uses the position of a row in the batch")
        self._rows.carry(output, axis)
        if found is not None:
            self._known[id(output)] = found
        return True

    def _ramp(self, node: Node, stride: Dim) -> Position | None:
        """``Range(0, n, 1)``: the positions of n rows, or the offsets within a row of length n."""
        values = [None if v is None else v.dims or _constant(v) for v in node.inputs]
        if len(values) != 3 or any(value is None or len(value) != 1 for value in values):
            return None
        start, limit, step = (value[0] for value in values if value is not None)
        if start != 0 or step != 1:
            return None
        if stride == 0:
            return Position(stride, limit)
        return Position(stride, Dim.of(1)) if limit is self._rows.size else None

    def _axis(self, node: Node) -> int | None:
        result = RULES[node.op](node, self._rows)
        return result if isinstance(result, int) else None

    def _multiply(self, node: Node) -> Position | None:
        """A position times a known non-negative number."""
        for left, right in (node.inputs, node.inputs[::-1]):
            position = self.get(left)
            factor = None if right is None else right.dims or _constant(right)
            if position is not None and factor is not None and len(factor) == 1:
                number = factor[0]
                if number.at_least(0) and self._rows.symbol not in number.symbols:
                    bound = (position.bound - 1) * number + 1
                    return Position(position.stride * number, bound)
        return None

    def _add(self, node: Node) -> Position | None:
        left, right = (self.get(value) for value in node.inputs)
        if left is None or right is None:
            return None
        return Position(left.stride + right.stride, left.bound + right.bound - 1)

    def _gather(self, node: Node) -> int | None:
        """Axis of the rows after a lookup that stays inside each row."""
        data, indices = node.inputs[0], node.inputs[1]
        position = self.get(indices)
        if data is None or not data.shape or position is None or self._rows.axis(data) != 0:
            return None
        entries = data.shape[0] // self._rows.size
        inside = position.stride is entries and (entries - position.bound).at_least(0)
        return self._rows.axis(indices) if inside and not node.attribute("axis", 0) else None


def _constant(value: Value) -> tuple[Dim, ...] | None:
    if value.data is None or value.data.size != 1 or value.data.dtype.kind not in "iu":
        return None
    return (Dim.of(int(value.data.reshape(-1)[0])),)

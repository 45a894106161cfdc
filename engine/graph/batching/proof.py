"""Which models answer a batch row by row, so that requests may share one run.

Every value is followed from the inputs: it is free of the batch, or carries the rows along one
axis of size ``N * k`` (row n owns the k entries from ``n * k`` on), or is a number computed from
the batch size. A node that keeps rows apart says along which axis its outputs carry them; anything
else refuses with the reason. What the rules say is checked against the inferred shapes: rows on an
axis that N does not divide, or N on any other axis, refuse too.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.graph.batching import layers  # noqa: F401 - registers its rules
from engine.graph.batching.elementwise import elementwise
from engine.graph.batching.movement import reshape
from engine.graph.batching.positions import Positions
from engine.graph.batching.rows import RULES, Refusal, Rows
from engine.graph.dims import Dim
from engine.graph.ir import Graph, Node, Value, subgraphs


@dataclass(frozen=True)
class BatchAxis:
    """Whether requests may be concatenated on axis 0, the symbol of that axis, and why (not)."""

    independent: bool
    symbol: str | None
    reason: str


def batch_axis(graph: Graph) -> BatchAxis:
    """Prove that all inputs and outputs share a symbolic axis 0 whose rows do not meet.

    The graph must be inferred. Never raises; what is not understood is not independent.
    """
    try:
        symbol = _common_symbol(graph.inputs, "input")
    except Refusal as refusal:
        return BatchAxis(False, None, str(refusal))
    rows = Rows(symbol)
    positions = Positions(rows)
    try:
        for value in graph.inputs:
            rows.carry(value, 0)
        _walk(graph, rows, positions)
        for value in graph.outputs:
            _check_output(value, rows)
    except Refusal as refusal:
        return BatchAxis(False, symbol, str(refusal))
    return BatchAxis(True, symbol, f"every node keeps the rows of {symbol!r} apart")


def _common_symbol(values: list[Value], role: str) -> str:
    """Name of the one symbol that is axis 0 of all values."""
    found: Dim | None = None
    for value in values:
        if value.kind != "tensor" or not value.shape:
            raise Refusal(f"{role} {value.name!r} has no axis 0")
        first = value.shape[0]
        if first.atom is None or first.atom.args:
            raise Refusal(f"axis 0 of {role} {value.name!r} has the size {first}, no free one")
        if found is not None and found is not first:
            raise Refusal(f"axis 0 of {role} {value.name!r} is {first}, of another {found}")
        found = first
    if found is None:
        raise Refusal(f"the model has no {role}")
    return str(found)


def _check_output(value: Value, rows: Rows) -> None:
    axis = rows.axis(value)
    if axis is None:
        raise Refusal(f"output {value.name!r} does not depend on the batch")
    if axis != 0 or value.shape is None or value.shape[0] is not rows.size:
        where = "?" if value.shape is None else value.shape[axis]
        raise Refusal(f"output {value.name!r} carries the rows on axis {axis} as {where}")


def _walk(graph: Graph, rows: Rows, positions: Positions) -> None:
    for node in graph.nodes:
        try:
            _follow(node, rows, positions)
        except Refusal as refusal:
            raise Refusal(f"node {node.label!r} ({node.key}) {refusal}") from None


def _follow(node: Node, rows: Rows, positions: Positions) -> None:
    inner = subgraphs(node)
    read = [v for v in node.inputs if v is not None]
    read += [v for body in inner for v in body.captures]
    if not any(rows.touches(value) for value in read):
        positions.follow_free(node)
    elif node.op == "If" and not node.domain:
        _follow_branches(node, inner, rows, positions)
    elif inner:
        raise Refusal("has a body that uses the batch, which is not followed")
    elif not all(value.dims is not None for value in node.outputs) and not positions.follow(node):
        _apply(node, read, rows)
    for value in node.outputs:
        _check_shape(value, rows)


def _follow_branches(node: Node, branches: list[Graph], rows: Rows, positions: Positions) -> None:
    condition = node.input(0)
    if condition is not None and rows.touches(condition):
        raise Refusal("decides by the batch")
    for branch in branches:
        _walk(branch, rows, positions)
    for output, results in zip(
        node.outputs, zip(*(b.outputs for b in branches), strict=True), strict=True
    ):
        axes = {rows.axis(value) for value in results}
        if len(axes) != 1 or any(
            rows.is_number(value) or positions.depends_on_row(value) for value in results
        ):
            raise Refusal("carries the rows differently in its branches")
        axis = axes.pop()
        if axis is not None:
            rows.carry(output, axis)


def _apply(node: Node, read: list[Value], rows: Rows) -> None:
    rule = RULES.get(node.key)
    if not any(rows.axis(value) is not None for value in read) and rule in (
        None,
        elementwise,
        reshape,
    ):
        if rule is None:
            raise Refusal("computes with the size of the batch")
        for value in node.outputs:
            rows.set_number(value)
        return
    if rule is None:
        raise Refusal("is not known to keep rows apart")
    result = rule(node, rows)
    axes = result if isinstance(result, list) else [result] * len(node.outputs)
    for value, axis in zip(node.outputs, axes, strict=False):
        if axis is not None:
            rows.carry(value, axis)


def _check_shape(value: Value, rows: Rows) -> None:
    """The inferred shape must agree with what the rules said of an output."""
    if not value.name and value.shape is None:
        return
    if value.dims is not None and any(rows.symbol in dim.symbols for dim in value.dims):
        rows.set_number(value)
    axis = rows.axis(value)
    if value.kind != "tensor" or value.shape is None:
        if axis is not None or value.kind == "tensor":
            raise Refusal(f"makes {value.name!r}, whose shape is not known")
        return
    for position, dim in enumerate(value.shape):
        if position == axis:
            if not rows.divides(dim):
                raise Refusal(f"makes {value.name!r} with {dim} on the axis of the batch")
        elif rows.symbol in dim.symbols:
            raise Refusal(f"makes {value.name!r} with {dim} on axis {position}, besides the rows")

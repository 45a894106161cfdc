"""Scan as Loop, so that kernels, planning and recognition know one form of iteration.

``Scan(s0, x) = Loop(n, true, s0)`` over the n elements of x along the scanned axis, with a body
that reads ``x[i]``, or ``x[n - 1 - i]`` where it is scanned backwards; an output that is stacked
backwards is reversed afterwards, one stacked along another axis than the first is transposed.

Preconditions: Scan of opset 9 or later; the ranks of the scanned inputs are known, and their
lengths are one and the same dim.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, update_captures

_BEFORE_ALL: Final = np.iinfo(np.int64).min
"""End of a slice that goes backwards to the first element."""


def scans(graph: Graph) -> PassReport:
    """Rewrite every Scan of the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.op == "Scan" and not node.domain:
                reason = _rewrite(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: Scan stays: {reason}")
        changes += rewriter.finish()
    if changes:
        update_captures(graph)
    return PassReport("scans", changes, notes)


def _listed(node: Node, name: str, count: int) -> list[int]:
    return [int(number) for number in node.attribute(name) or [0] * count]


def _rewrite(rewriter: Rewriter, node: Node) -> str:
    """Put a Loop in the place of a Scan; the reason where that is not possible."""
    if node.version < 9:
        return "before opset 9 it has a batch axis"
    body: Graph = node.attribute("body")
    count = int(node.attribute("num_scan_inputs"))
    states = len(node.inputs) - count
    scanned = [value for value in node.inputs[states:] if value is not None]
    axes = _listed(node, "scan_input_axes", count)
    backwards = _listed(node, "scan_input_directions", count)
    lengths = set()
    for position, value in enumerate(scanned):
        if value.shape is None:
            return f"the rank of {value.name} is unknown"
        axes[position] %= len(value.shape)
        lengths.add(value.shape[axes[position]])
    if len(lengths) != 1:
        return "its inputs are not known to be of one length"
    made: list[Node] = []

    def emit(op: str, version: int, *inputs: Value, **attributes: Any) -> Value:
        result = rewriter.value(f"{node.label}_{op.lower()}")
        made.append(Node(op, list(inputs), [result], attributes, "", version))
        return result

    def scalar(number: int) -> Value:
        return rewriter.constant(f"{node.label}_number", np.array(number, np.int64))

    trips = emit("Gather", 13, emit("Shape", 15, scanned[0]), scalar(axes[0]), axis=0)
    last = emit("Sub", 14, trips, scalar(1)) if any(backwards) else None
    true = rewriter.constant(f"{node.label}_true", np.array(True))
    _read_elements(rewriter, node, list(zip(scanned, axes, backwards, strict=True)), last)
    body.outputs.insert(0, true)
    rows = len(node.outputs) - states
    out_axes, reversed_ = (
        _listed(node, f"scan_output_{name}", rows) for name in ("axes", "directions")
    )
    outputs = list(node.outputs[:states])
    behind: list[Node] = []
    for value, axis, turn in zip(node.outputs[states:], out_axes, reversed_, strict=True):
        outputs.append(_stacked(rewriter, value, axis, bool(turn), behind))
    loop = Node("Loop", [trips, None, *node.inputs[:states]], outputs, {"body": body}, "", 16)
    loop.name = node.name
    rewriter.replace(node, [*made, loop, *behind])
    return ""


def _read_elements(
    rewriter: Rewriter, node: Node, scanned: list[tuple[Value, int, int]], last: Value | None
) -> None:
    """Let the body of a Scan take the number of its iteration and read its elements itself."""
    body: Graph = node.attribute("body")
    states = len(body.inputs) - len(scanned)
    number = rewriter.value(f"{node.label}_iteration")
    running = rewriter.value(f"{node.label}_running")
    nodes: list[Node] = []
    from_end: Value | None = None
    for formal, (source, axis, backwards) in zip(body.inputs[states:], scanned, strict=True):
        index = number
        if backwards:
            if from_end is None:
                from_end = rewriter.value(f"{node.label}_from_end")
                nodes.append(Node("Sub", [last, number], [from_end], {}, "", 14))
                from_end.producer = nodes[-1]
            index = from_end
        nodes.append(Node("Gather", [source, index], [formal], {"axis": axis}, "", 13))
        formal.producer = nodes[-1]
    body.inputs = [number, running, *body.inputs[:states]]
    body.nodes[:0] = nodes


def _stacked(
    rewriter: Rewriter, value: Value, axis: int, turned: bool, behind: list[Node]
) -> Value:
    """What the Loop stacks for an output of the Scan; `behind` grows by what orders it."""
    rank = None if value.shape is None else len(value.shape)
    if not value.name or not (turned or axis % (rank or axis + 1)):
        return value
    stacked = rewriter.value(f"{value.name}_stacked")
    source = stacked
    if turned:
        numbers = [rewriter.constant("slice", [n]) for n in (-1, _BEFORE_ALL, 0, -1)]
        target = rewriter.value(f"{value.name}_turned") if axis else value
        behind.append(Node("Slice", [source, *numbers], [target], {}, "", 13))
        source = target
    if axis:
        assert rank is not None
        order = list(range(1, rank))
        order.insert(axis % rank, 0)
        behind.append(Node("Transpose", [source], [value], {"perm": order}, "", 13))
    return stacked

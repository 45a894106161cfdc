"""Selection of the branch of an If that alone makes a valid graph.

Exporters guard a Squeeze by ``If(shape[a] == 1)``; the branches then give tensors of different
rank, and what follows fits one of them. ``If(c, A, B) = A`` where the graph behind it contradicts
itself with B, and the sizes for which c does not hold are refused before a run (``Assume``), as the
model would refuse them itself.

Preconditions: the condition follows from sizes; the branches' outputs differ in rank; inference
finds an error in the graph with one branch in place and none with the other.
"""

from __future__ import annotations

from typing import Any

from engine.errors import ModelError
from engine.graph.inference import infer
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import all_graphs, update_captures

_BRANCHES = ("then_branch", "else_branch")


def branches(graph: Graph) -> PassReport:
    """Put the only possible branch in the place of an If; one per run of the pass and graph."""
    notes: list[str] = []
    changes = 0
    for number, inner in enumerate(list(all_graphs(graph))):
        for place, node in enumerate(inner.nodes):
            if not _differs(node):
                continue
            possible = [name for name in _BRANCHES if _is_possible(graph, number, place, name)]
            if len(possible) == 1:
                _select(inner, place, possible[0])
                changes += 1
                break
            found = "both fit" if possible else "neither fits"
            notes.append(f"{node.label}: If stays: its branches differ in rank and {found}")
        if changes:
            # The graphs inside were renumbered; the manager runs the pass again.
            break
    return PassReport("branches", changes, notes)


def _differs(node: Node) -> bool:
    """Whether sizes decide between outputs of different ranks."""
    if node.op != "If" or node.domain:
        return False
    condition = node.inputs[0]
    if condition is None or condition.dims is None:
        return False
    ranks = [
        [None if value.shape is None else len(value.shape) for value in node.attributes[b].outputs]
        for b in _BRANCHES
    ]
    return ranks[0] != ranks[1] and all(rank is not None for pair in ranks for rank in pair)


def _is_possible(graph: Graph, number: int, place: int, branch: str) -> bool:
    """Whether the graph is valid with `branch` in the place of a node of its subgraph `number`."""
    trial = clone(graph, {})
    inner = list(all_graphs(trial))[number]
    _select(inner, place, branch)
    update_captures(trial)
    try:
        infer(trial, strict=inner)
    except ModelError:
        return False
    return True


def _select(graph: Graph, place: int, branch: str) -> None:
    node = graph.nodes[place]
    chosen: Graph = node.attributes[branch]
    added = list(chosen.nodes)
    holds = int(branch == _BRANCHES[0])
    what = f"the branch of {node.label!r} that fits and the sizes that choose it"
    for target, source in zip(node.outputs, chosen.outputs, strict=True):
        if target.name:
            attributes = {"equal": holds, "what": what}
            copy = Node("Assume", [source, node.inputs[0]], [target], attributes, OURS, 1)
            target.producer = copy
            added.append(copy)
    graph.nodes[place : place + 1] = added


def clone(graph: Graph, values: dict[int, Value]) -> Graph:
    """A copy of a graph that shares its constants; `values` maps ``id(old)`` to the copy."""

    def of(value: Value) -> Value:
        if value.data is not None:
            return value
        found = values.get(id(value))
        if found is None:
            found = Value(value.name, value.dtype, value.shape, None, value.dims, value.kind)
            values[id(value)] = found
        return found

    copy = Graph(graph.name, opsets=graph.opsets, external=graph.external)
    copy.inputs = [of(value) for value in graph.inputs]
    for node in graph.nodes:
        inputs = [None if value is None else of(value) for value in node.inputs]
        outputs = [of(value) for value in node.outputs]
        attributes: dict[str, Any] = {
            name: clone(item, values) if isinstance(item, Graph) else item
            for name, item in node.attributes.items()
        }
        made = Node(node.op, inputs, outputs, attributes, node.domain, node.version, node.name)
        for value in outputs:
            value.producer = made
        copy.nodes.append(made)
    copy.outputs = [of(value) for value in graph.outputs]
    copy.captures = [of(value) for value in graph.captures]
    return copy

"""Removal of what no output needs.

A node is dead when none of its outputs is read or leaves the graph; operators have no side effects.
An output that nobody reads, of a node that stays, loses its name, which is how the graph marks an
unused optional output: kernels then need not compute it.
"""

from __future__ import annotations

from engine.graph.ir import Graph, Value, subgraphs
from engine.graph.passes.manager import PassReport


def dead_code(graph: Graph) -> PassReport:
    """Remove dead nodes of the graph and its subgraphs; inputs stay."""
    return PassReport("dead_code", _sweep(graph))


def _sweep(graph: Graph) -> int:
    live: set[int] = {id(value) for value in graph.outputs}
    kept = []
    changes = 0
    for node in reversed(graph.nodes):
        if not any(id(value) in live for value in node.outputs):
            changes += 1
            continue
        kept.append(node)
        for index, value in enumerate(node.outputs):
            if value.name and id(value) not in live:
                node.outputs[index] = Value("", value.dtype, value.shape, producer=node)
                changes += 1
        live.update(id(value) for value in node.inputs if value is not None)
        for inner in subgraphs(node):
            changes += _sweep(inner)
            live.update(_read(inner))
    graph.nodes = kept[::-1]
    return changes


def _read(graph: Graph) -> set[int]:
    """Identities of all values that a subgraph mentions; the outer ones among them are live."""
    found = {id(value) for value in graph.outputs}
    for node in graph.nodes:
        found.update(id(value) for value in node.inputs if value is not None)
        for inner in subgraphs(node):
            found |= _read(inner)
    return found

"""Merging of consecutive transposes.

``transpose(transpose(x, p), q) = transpose(x, r)`` with ``r[i] = p[q[i]]``; where r is the identity
permutation, x itself. The inner transpose stays only for its other readers.
"""

from __future__ import annotations

from engine.graph.ir import Graph, Node
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs


def transposes(graph: Graph) -> PassReport:
    """Merge transposes in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            _merge(rewriter, node)
        changes += rewriter.finish()
    return PassReport("transposes", changes)


def permutation(node: Node) -> list[int] | None:
    """Permutation of a Transpose, None for another operator or an unknown rank."""
    if node.op != "Transpose" or node.domain:
        return None
    given = node.attribute("perm")
    if given is not None:
        return list(given)
    source = node.input(0)
    if source is None or source.shape is None:
        return None
    return list(range(len(source.shape)))[::-1]


def _merge(rewriter: Rewriter, node: Node) -> None:
    outer = permutation(node)
    middle = node.input(0)
    if outer is None or middle is None or middle.producer is None:
        return
    inner = permutation(middle.producer)
    if inner is None:
        return
    source = middle.producer.inputs[0]
    assert source is not None
    merged = [inner[axis] for axis in outer]
    if merged == sorted(merged):
        rewriter.bypass(node, source)
    else:
        rewriter.substitute(node, Node("Transpose", [source], [], {"perm": merged}, version=13))

"""Operators of classical machine learning (domain ``ai.onnx.ml``) in terms of others.

Scalers, linear models, encoders and tree ensembles become standard operators and `packhorse.Trees`;
each rule in `engine.graph.learning` states its algebra. What no rule expresses stays, with a note.
"""

from __future__ import annotations

from engine.errors import ModelError
from engine.graph.body import Body, Unsupported
from engine.graph.inference.walk import infer_node, start
from engine.graph.ir import Graph, Node
from engine.graph.learning import DOMAIN, rewrites
from engine.graph.learning.ensemble import MalformedError
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs


def classical(graph: Graph) -> PassReport:
    """Rewrite in the graph and its subgraphs. Raises ModelError for malformed models."""
    notes: list[str] = []
    changes = 0
    found = [
        inner for inner in all_graphs(graph) if any(node.domain == DOMAIN for node in inner.nodes)
    ]
    names = Names(graph) if found else None
    for inner in found:
        assert names is not None
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.domain == DOMAIN:
                reason = _rewrite(rewriter, node, graph)
                if reason:
                    notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("classical", changes, notes)


def _rewrite(rewriter: Rewriter, node: Node, graph: Graph) -> str | None:
    rule = rewrites().get(node.op)
    if rule is None:
        return "it has no rule"
    state = start(graph)
    body = Body(node, rewriter.names, lambda made: infer_node(made, state, None))
    try:
        rule(body)
        rewriter.replace(node, body.finish())
    except Unsupported as verdict:
        return str(verdict)
    except (MalformedError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"node {node.label!r} ({node.key}): its attributes are malformed: {error}; export the "
            "model again"
        ) from error
    return None

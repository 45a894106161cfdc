"""Rare forms of operators, written as common ones.

Each operator with a rule in `engine.graph.standard` is replaced by what the rule writes; the
docstrings of the rules are their algebra. Preconditions: those of the rules; where one does not
hold, the node stays and the report says why.
"""

from __future__ import annotations

from engine.errors import ModelError
from engine.graph.body import Body, Unsupported
from engine.graph.inference.context import State
from engine.graph.inference.walk import infer_node, start
from engine.graph.ir import Graph, Node
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.standard import Expansion, expansions


def expansion(graph: Graph) -> PassReport:
    """Expand operators in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    rules = expansions()
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        state = start(graph)
        subgraph = None if inner is graph else inner
        for node in rewriter.nodes():
            rule = rules.get(node.op) if not node.domain else None
            reason = rule and _expanded(rewriter, node, rule, state, subgraph)
            if reason:
                notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("expansion", changes, notes)


def _expanded(
    rewriter: Rewriter, node: Node, rule: Expansion, state: State, subgraph: Graph | None
) -> str | None:
    """Replace a node by what its rule writes; the reason where it stays."""
    body = Body(node, rewriter.names, lambda made: infer_node(made, state, subgraph))
    try:
        if rule(body):
            rewriter.replace(node, body.finish())
    except (Unsupported, ModelError) as verdict:
        return str(verdict)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # An attribute or constant of a form that no valid model has.
        return f"its attributes or constants are malformed: {error}"
    return None

"""Expansion of contributed operators in a model that was just read."""

from __future__ import annotations

from engine.errors import ModelError
from engine.graph.body import Body, Unsupported
from engine.graph.contributed.registry import expansions
from engine.graph.inference.context import State
from engine.graph.inference.walk import infer_node, start
from engine.graph.ir import Graph, Node, subgraphs
from engine.graph.opsets import CONTRIBUTED
from engine.graph.passes.rewrite import Names, all_graphs, update_captures


def expand(graph: Graph, where: str) -> None:
    """Replace every node of `CONTRIBUTED` in the graph and its subgraphs by standard ones.

    Nodes are walked in order and inferred on the way, because an expansion may depend on the data
    types and ranks of what it reads. Raises ModelError naming the model, the node and what to do.
    """
    if not any(node.domain == CONTRIBUTED for inner in all_graphs(graph) for node in inner.nodes):
        return
    names = Names(graph)
    _expand(graph, names, start(graph), None, where)
    update_captures(graph)


def _expand(graph: Graph, names: Names, state: State, subgraph: Graph | None, where: str) -> None:
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.domain == CONTRIBUTED:
            nodes.extend(_expanded(node, names, state, subgraph, where))
            continue
        nodes.append(node)
        infer_node(node, state, subgraph)
        for inner in subgraphs(node):
            _expand(inner, names, state, inner, where)
        if subgraphs(node):
            infer_node(node, state, subgraph)
    graph.nodes = nodes


def _expanded(
    node: Node, names: Names, state: State, subgraph: Graph | None, where: str
) -> list[Node]:
    body = Body(node, names, lambda made: infer_node(made, state, subgraph))
    place = f"{where}: node {node.label!r} ({node.key})"
    expansion = expansions().get(node.op)
    if expansion is None:
        raise ModelError(
            f"{place}: the operator is unknown; export the model with standard ONNX operators, or "
            "with the operator as a function of the model (docs/operators.md lists those supported)"
        )
    try:
        expansion(body)
        return body.finish()
    except Unsupported as verdict:
        raise ModelError(
            f"{place}: {verdict}; export the model without graph optimisations of the runtime, or "
            "with standard ONNX operators"
        ) from None
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{place}: its attributes or constants are malformed: {error}") from error

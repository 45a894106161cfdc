"""The structural specification of the typed graph, checked between passes."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import Graph, Node, Value, subgraphs

KINDS: Final = frozenset({"tensor", "sparse", "sequence", "optional", "map"})


class GraphError(AssertionError):
    """A pass broke the graph; the message names the rule. Never caused by a model file."""


def verify(graph: Graph) -> None:
    """Raise GraphError unless the graph keeps every rule.

    - Nodes are in topological order: an input of a node is a constant, an input or capture of its
      graph, or an output of an earlier node of the same graph.
    - A node output names the node as producer and has no data; inputs and constants have no
      producer. Every value has one definition.
    - Names are unique in the graph and its subgraphs; only unused outputs have none.
    - Data agrees with data type and shape; `dims` belongs to integer and boolean tensors of rank 0
      or 1 and has as many elements as they.
    - Graph outputs are defined. A capture is read inside and available outside.
    """
    _verify_graph(graph, frozenset(), {})


def _verify_graph(graph: Graph, outer: frozenset[int], names: dict[str, int]) -> None:
    available: set[int] = set()
    for value in graph.captures:
        _require(
            value.is_constant or id(value) in outer,
            f"capture {value.name!r} of {graph.name!r} is not available outside",
        )
        available.add(id(value))
    for value in graph.inputs:
        _require(id(value) not in available, f"input {value.name!r} is listed twice")
        _require(value.producer is None, f"input {value.name!r} has a producer")
        _require(not value.is_constant, f"input {value.name!r} is a constant")
        available.add(id(value))
    for value in graph.values():
        _verify_value(value, names)
    read: set[int] = set()
    for node in graph.nodes:
        _verify_node(node, available)
        for inner in subgraphs(node):
            _verify_graph(inner, outer | available, names)
        read.update(id(v) for v in node.inputs if v is not None)
        read.update(id(v) for inner in subgraphs(node) for v in inner.captures)
        for value in node.outputs:
            _require(
                id(value) not in available, f"{value.name!r} is defined twice, by {node.label!r}"
            )
            available.add(id(value))
    for value in graph.outputs:
        _require(
            value.is_constant or id(value) in available,
            f"output {value.name!r} of {graph.name!r} is not defined",
        )
        read.add(id(value))
    for value in graph.captures:
        _require(id(value) in read, f"capture {value.name!r} of {graph.name!r} is not read")


def _verify_node(node: Node, available: set[int]) -> None:
    _require(node.version >= 1, f"node {node.label!r} ({node.key}) has no version")
    _require(bool(node.outputs), f"node {node.label!r} ({node.key}) has no outputs")
    for value in node.inputs:
        _require(
            value is None or value.is_constant or id(value) in available,
            f"node {node.label!r} ({node.key}) reads {value and value.name!r} before it is defined",
        )
    for value in node.outputs:
        _require(
            value.producer is node,
            f"output {value.name!r} of node {node.label!r} names another producer",
        )
        _require(not value.is_constant, f"node {node.label!r} computes a constant")


def _verify_value(value: Value, names: dict[str, int]) -> None:
    if value.name:
        owner = names.setdefault(value.name, id(value))
        _require(owner == id(value), f"two values are called {value.name!r}")
    else:
        _require(value.producer is not None, "a value that is no unused output has no name")
    _require(value.kind in KINDS, f"{value.name!r} has the unknown kind {value.kind!r}")
    _require(
        value.dtype is None or isinstance(value.dtype, np.dtype),
        f"data type of {value.name!r} is not a numpy dtype",
    )
    if value.shape is not None:
        _require(
            isinstance(value.shape, tuple) and all(isinstance(d, Dim) for d in value.shape),
            f"shape of {value.name!r} is not a tuple of dims",
        )
    if value.data is not None:
        _verify_data(value)
    if value.dims is not None:
        _verify_dims(value)


def _verify_data(value: Value) -> None:
    assert value.data is not None
    _require(value.producer is None, f"constant {value.name!r} has a producer")
    _require(value.kind == "tensor", f"constant {value.name!r} is not a tensor")
    _require(value.dtype == value.data.dtype, f"data type of {value.name!r} is not its data's")
    _require(
        value.shape == tuple(Dim.of(d) for d in value.data.shape),
        f"shape of {value.name!r} is not its data's {value.data.shape}",
    )


def _verify_dims(value: Value) -> None:
    assert value.dims is not None
    _require(
        value.dtype is None or value.dtype.kind in "iub",
        f"{value.name!r} has dims but holds {value.dtype}",
    )
    if value.shape is None:
        return
    _require(len(value.shape) <= 1, f"{value.name!r} has dims but {len(value.shape)} axes")
    size = value.shape[0] if value.shape else Dim.of(1)
    _require(
        not size.is_constant or size.value == len(value.dims),
        f"{value.name!r} has {len(value.dims)} dims for shape {value.shape}",
    )
    if value.data is not None:
        known = [d.value if d.is_constant else None for d in value.dims]
        _require(known == value.data.reshape(-1).tolist(), f"dims of {value.name!r} not its data")


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise GraphError(rule)

"""Structure of a model file before it is converted: names, scopes, order, limits.

The checks need no operator semantics. They leave every graph of the model in topological order (a
stable sort: a graph that is in order already stays as it is).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from engine.errors import ModelError

MAX_NODES: Final = 1_000_000
"""Most nodes of a model, counted with model-local functions expanded."""

FunctionKey = tuple[str, str, str]


def function_key(node: NodeProto) -> FunctionKey:
    """Identity of the model-local function that a node would call."""
    return (standard_domain(node.domain), node.op_type, node.overload)


def standard_domain(domain: str) -> str:
    """Domain with the alias ``ai.onnx`` resolved to ``""``."""
    return "" if domain == "ai.onnx" else domain


def attribute_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Subgraphs that a node carries as attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def node_label(node: NodeProto) -> str:
    """How messages call a node of the file."""
    name = node.name or next((o for o in node.output if o), "")
    return f"node {name!r} ({node.op_type})" if name else f"an unnamed {node.op_type} node"


def check_structure(model: ModelProto, where: str) -> None:
    """Check names and scopes of all graphs and sort their nodes. Raises ModelError."""
    _check_text(model, where)
    functions: dict[FunctionKey, FunctionProto] = {}
    for function in model.functions:
        key = (standard_domain(function.domain), function.name, function.overload)
        if key in functions:
            raise ModelError(f"{where}: function {function.name!r} is defined twice")
        functions[key] = function
    _check_expansion(model.graph, functions, where)
    _order_graph(model.graph, set(), where)
    for function in functions.values():
        inner = f"{where}: function {function.name!r}"
        _check_unique(function.input, "input", inner)
        order = _node_order(function.node, set(function.input), inner)
        _apply_order(function.node, order)
        defined = set(function.input).union(*(n.output for n in function.node))
        for name in function.output:
            if name not in defined:
                raise ModelError(f"{inner}: output {name!r} is not computed by any node")
        for node in function.node:
            for graph in attribute_graphs(node):
                _order_graph(graph, defined, inner)


def _check_text(model: ModelProto, where: str) -> None:
    """Refuse names that are not UTF-8, which protobuf hands over as bytes."""

    def nodes_text(nodes: Iterable[NodeProto]) -> Iterator[object]:
        for node in nodes:
            yield from (node.op_type, node.domain, node.overload, node.name)
            yield from node.input
            yield from node.output
            for attribute in node.attribute:
                yield from (attribute.name, attribute.ref_attr_name)
            for graph in attribute_graphs(node):
                yield from graph_text(graph)

    def graph_text(graph: GraphProto) -> Iterator[object]:
        yield graph.name
        for info in (*graph.input, *graph.output, *graph.value_info):
            yield info.name
            yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
        yield from (tensor.name for tensor in graph.initializer)
        yield from (sparse.values.name for sparse in graph.sparse_initializer)
        yield from nodes_text(graph.node)

    def text() -> Iterator[object]:
        yield from (item.domain for item in model.opset_import)
        yield from graph_text(model.graph)
        for function in model.functions:
            yield from (function.name, function.domain, function.overload)
            yield from (*function.input, *function.output, *function.attribute)
            yield from (a.name for a in function.attribute_proto)
            yield from (item.domain for item in function.opset_import)
            yield from (info.name for info in function.value_info)
            yield from nodes_text(function.node)

    for item in text():
        if not isinstance(item, str):
            raise ModelError(
                f"{where}: the name {item!r} is not UTF-8; the file is damaged, export it again"
            )


def _order_graph(graph: GraphProto, outer: set[str], where: str) -> None:
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer]
    constants += [sparse.values.name for sparse in graph.sparse_initializer]
    _check_unique(inputs, "input", where)
    _check_unique(constants, "initialiser", where)
    known = {*outer, *inputs, *constants}
    local = {*inputs, *constants}
    produced: dict[str, str] = {}
    for node in graph.node:
        for name in node.output:
            if not name:
                continue
            if name in produced or name in local:
                other = f"{produced[name]}" if name in produced else "an input or initialiser"
                raise ModelError(
                    f"{where}: {node_label(node)} computes {name!r}, which {other} already "
                    "defines; give every value one definition"
                )
            produced[name] = node_label(node)
    _apply_order(graph.node, _node_order(graph.node, known, where))
    known.update(produced)
    for output in graph.output:
        if output.name not in known:
            raise ModelError(
                f"{where}: output {output.name!r} of graph {graph.name!r} is neither computed by a "
                "node nor an input or initialiser"
            )
    for node in graph.node:
        for inner in attribute_graphs(node):
            _order_graph(inner, known, where)


def _node_order(nodes: Iterable[NodeProto], known: set[str], where: str) -> list[int]:
    """Positions of the nodes in topological order, the first possible by position."""
    listed = list(nodes)
    producer = {name: i for i, node in enumerate(listed) for name in node.output if name}
    needs: list[set[int]] = []
    for index, node in enumerate(listed):
        needed: set[int] = set()
        for name in _names_read(node):
            if name in producer:
                needed.add(producer[name])
            elif name and name not in known:
                raise ModelError(
                    f"{where}: {node_label(node)} reads {name!r}, which is not an input, an "
                    "initialiser or the output of any node"
                )
        needs.append(needed)
        if index in needed:
            raise ModelError(f"{where}: {node_label(node)} reads its own output")
    if all(max(needed, default=-1) < index for index, needed in enumerate(needs)):
        return list(range(len(listed)))
    readers: dict[int, list[int]] = {}
    missing = [len(needed) for needed in needs]
    for index, needed in enumerate(needs):
        for source in needed:
            readers.setdefault(source, []).append(index)
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(listed):
        raise ModelError(f"{where}: the graph has a cycle: {_cycle(listed, needs, missing)}")
    return order


def _cycle(nodes: list[NodeProto], needs: list[set[int]], missing: list[int]) -> str:
    """Nodes of one cycle, as text."""
    current = next(index for index, count in enumerate(missing) if count)
    path: list[int] = []
    while current not in path:
        path.append(current)
        current = next(source for source in needs[current] if missing[source])
    loop = path[path.index(current) :][::-1]
    shown = [node_label(nodes[index]) for index in loop[:6]]
    if len(loop) > len(shown):
        shown.append(f"{len(loop) - len(shown)} more")
    return " -> ".join([*shown, shown[0]])


def _names_read(node: NodeProto) -> set[str]:
    """Values that a node reads, also from inside its subgraphs."""
    names = set(node.input)
    for graph in attribute_graphs(node):
        names |= _free_names(graph)
    return names


def _free_names(graph: GraphProto) -> set[str]:
    """Values that a graph reads from the graphs around it."""
    bound = {value.name for value in graph.input}
    bound.update(tensor.name for tensor in graph.initializer)
    bound.update(sparse.values.name for sparse in graph.sparse_initializer)
    read = {output.name for output in graph.output}
    for node in graph.node:
        bound.update(node.output)
        read |= _names_read(node)
    return read - bound


def _apply_order(nodes: object, order: list[int]) -> None:
    if order != list(range(len(order))):
        copies = []
        for index in order:
            copy = NodeProto()
            copy.CopyFrom(nodes[index])  # type: ignore[index]
            copies.append(copy)
        del nodes[:]  # type: ignore[attr-defined]
        nodes.extend(copies)  # type: ignore[attr-defined]


def _check_unique(names: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"{where}: an {what} has no name")
        if name in seen:
            raise ModelError(f"{where}: {what} {name!r} is defined twice")
        seen.add(name)


def _check_expansion(
    graph: GraphProto, functions: dict[FunctionKey, FunctionProto], where: str
) -> None:
    """Refuse recursive functions and models that grow beyond MAX_NODES when expanded."""
    sizes: dict[FunctionKey, int] = {}
    active: set[FunctionKey] = set()

    def size_of_nodes(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = function_key(node)
            total += size_of_function(key) if key in functions else 1
            total += sum(size_of_nodes(inner.node) for inner in attribute_graphs(node))
            if total > MAX_NODES:
                raise ModelError(
                    f"{where}: the model has more than {MAX_NODES} nodes with its functions "
                    "expanded, which is the most supported"
                )
        return total

    def size_of_function(key: FunctionKey) -> int:
        if key in active:
            raise ModelError(f"{where}: function {key[1]!r} calls itself, which ONNX forbids")
        if key not in sizes:
            active.add(key)
            if len(active) > _MAX_CALL_DEPTH:
                raise ModelError(f"{where}: functions call each other too deeply")
            sizes[key] = size_of_nodes(functions[key].node)
            active.remove(key)
        return sizes[key]

    size_of_nodes(graph.node)


_MAX_CALL_DEPTH: Final = 64

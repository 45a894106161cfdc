"""Fusion of connected element-wise operators into one ``packhorse.Elementwise`` node.

For a node ``y = f(.., v, ..)`` with ``v = g(..)`` element-wise, ``y = f(.., g(..), ..)`` element by
element, which saves writing and reading v. A group grows from its last node upwards, by producers
whose every reader already lies in the group, so nothing is computed twice and no cycle can arise.
Preconditions: the producer has the shape of the group's result (otherwise the broadcast would
repeat its work), at most `MAX_INPUTS` distinct inputs and `MAX_OPERATIONS` scalar operations, no
value that leaves the graph or carries a known shape. Casts between that lose nothing disappear
(`engine.codegen.expression.Expr.cast`), constants of one element become part of the expression.

The node's attribute ``expression`` is the scalar expression over its inputs; they broadcast.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.expression import Expr
from engine.codegen.onnx_expression import ELEMENTWISE_OPERATORS, from_node
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

MAX_INPUTS: Final = 8
MAX_OPERATIONS: Final = 24


def fuse_elementwise(graph: Graph) -> PassReport:
    """Fuse groups in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        expressions = _expressions(inner)
        taken: set[int] = set()
        for node in reversed(list(rewriter.nodes())):
            if id(node) in taken or id(node) not in expressions:
                continue
            group = _Group(node, expressions, rewriter)
            notes.extend(group.grow())
            if len(group.members) > 1:
                taken.update(id(member) for member in group.members)
                group.replace()
        changes += rewriter.finish()
    return PassReport("fuse_elementwise", changes, notes)


def _expressions(graph: Graph) -> dict[int, Expr]:
    """Expression of every node that may be part of a group, by ``id(node)``."""
    found: dict[int, Expr] = {}
    for node in graph.nodes:
        if node.key == "packhorse.Elementwise":
            found[id(node)] = node.attribute("expression")
        elif node.key in ELEMENTWISE_OPERATORS:
            output = node.outputs[0]
            if output.shape is None or output.dims is not None or output.is_constant:
                continue
            expr = from_node(node)
            if isinstance(expr, Expr) and reads_all_axes(node, expr):
                found[id(node)] = expr
    return found


def reads_all_axes(node: Node, expr: Expr) -> bool:
    """Whether the inputs that the expression reads give the result its rank."""
    read = [node.inputs[int(x.value or 0)] for x in expr.inputs]
    ranks = [value.rank for value in read if value is not None and value.shape is not None]
    return len(ranks) == len(read) and max(ranks, default=-1) == node.outputs[0].rank


class _Group:
    """Nodes to become one, all of them feeding `sink` alone."""

    def __init__(self, sink: Node, expressions: dict[int, Expr], rewriter: Rewriter) -> None:
        self.sink = sink
        self.expressions = expressions
        self.rewriter = rewriter
        self.members = [sink]
        self.expression, self.inputs = self._combined(self.members)

    def grow(self) -> list[str]:
        """Add producers while any qualifies; the reasons why the others do not."""
        while True:
            reasons: list[str] = []
            for producer in self._producers():
                reason = self._add(producer)
                if reason is None:
                    break
                reasons.append(f"{producer.label} stays apart from {self.sink.label}: {reason}")
            else:
                return reasons

    def replace(self) -> None:
        """Put one node in the place of the members."""
        attributes = {"expression": self.expression}
        fused = Node("Elementwise", list(self.inputs), [], attributes, OURS, 1)
        self.rewriter.substitute(self.sink, fused)
        for member in self.members[1:]:
            self.rewriter.remove(member)

    def _producers(self) -> list[Node]:
        found: dict[int, Node] = {}
        for value in self.inputs:
            node = value.producer
            if node is not None and id(node) in self.expressions:
                found[id(node)] = node
        return list(found.values())

    def _add(self, producer: Node) -> str | None:
        """Add a producer; the reason where it does not qualify."""
        value = producer.outputs[0]
        inside = {id(member) for member in self.members}
        if self.rewriter.is_output(value):
            return "its result leaves the graph"
        others = [reader for reader in self.rewriter.readers(value) if id(reader) not in inside]
        if others:
            return f"its result is also read by {others[0].label}"
        if value.shape != self.sink.outputs[0].shape:
            return "its result is broadcast"
        expression, inputs = self._combined([*self.members, producer])
        if len(inputs) > MAX_INPUTS:
            return f"together they read more than {MAX_INPUTS} tensors"
        if expression.operations > MAX_OPERATIONS:
            return f"together they make more than {MAX_OPERATIONS} operations"
        self.members.append(producer)
        self.expression, self.inputs = expression, inputs
        return None

    def _combined(self, members: list[Node]) -> tuple[Expr, list[Value]]:
        """Expression of the sink over what the members read from outside."""
        producers = {id(member.outputs[0]): member for member in members}
        inputs: list[Value] = []
        built: dict[int, Expr] = {}

        def of_value(value: Value, dtype: str) -> Expr:
            member = producers.get(id(value))
            if member is not None:
                return of_node(member)
            place = next((i for i, known in enumerate(inputs) if known is value), len(inputs))
            if place == len(inputs):
                inputs.append(value)
            return Expr.input(place, dtype)

        def of_node(node: Node) -> Expr:
            if id(node) not in built:
                own = self.expressions[id(node)]
                replacements = {}
                for read in own.inputs:
                    index = int(read.value or 0)
                    value = node.inputs[index]
                    assert value is not None
                    replacements[index] = of_value(value, read.dtype)
                built[id(node)] = own.substitute(replacements)
            return built[id(node)]

        return of_node(self.sink), inputs

"""One kernel for expressions that differ in constants alone.

A constant is part of an expression and so of its machine code, which suits the constants that
belong to a function (0.5 in Gelu). Those that belong to a layer (a quantisation scale) would make
one kernel per layer: a network of a hundred quantised convolutions compiled a hundred. Where
several expressions of the graph have one structure, the constants in which they differ become
inputs of one element, which a kernel reads once per row or tile; those in which they agree stay.

Concerns the attribute ``expression`` of ``packhorse.Elementwise`` and the ``epilogue`` of products,
and single element-wise operators. Bytes do not change: the same operations see the same numbers.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.onnx_expression import ELEMENTWISE_OPERATORS, from_node
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.fuse_elementwise import reads_all_axes
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_MAX_INPUTS: Final = 8
"""Most inputs of an expression after this pass."""


@dataclass(eq=False)
class _User:
    """A node with an expression, the attribute it stands in, and where it was found."""

    rewriter: Rewriter
    node: Node
    attribute: str
    expression: Expr

    @property
    def constants(self) -> list[Expr]:
        """Constants in the order of the structure."""
        return [part for part in self.expression.nodes() if part.op == "constant"]

    def key(self) -> Hashable:
        """What two users of one kernel have in common but for constants."""
        content = self.expression.to_json()
        parts = tuple(
            (op, dtype, None if op == "constant" else value, *places)
            for op, dtype, value, *places in content
        )
        return (self.node.key, self.attribute, tuple(self.node.attribute("access", ())), parts)


def shared_kernels(graph: Graph) -> PassReport:
    """Turn constants into inputs in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    groups: dict[Hashable, list[_User]] = {}
    rewriters = [Rewriter(inner, names) for inner in all_graphs(graph)]
    for rewriter in rewriters:
        for node in rewriter.nodes():
            user = _user(rewriter, node)
            if user is not None:
                groups.setdefault(user.key(), []).append(user)
    for users in groups.values():
        reason = _share(users)
        if reason:
            notes.append(f"{users[0].node.label} and {len(users) - 1} more stay apart: {reason}")
    return PassReport("shared_kernels", sum(r.finish() for r in rewriters), notes)


def _user(rewriter: Rewriter, node: Node) -> _User | None:
    for attribute in ("expression", "epilogue"):
        found = node.attribute(attribute)
        if isinstance(found, Expr):
            return _User(rewriter, node, attribute, found)
    if node.key not in ELEMENTWISE_OPERATORS or node.outputs[0].dims is not None:
        return None
    expression = from_node(node)
    if isinstance(expression, Expr) and expression.inputs and reads_all_axes(node, expression):
        return _User(rewriter, node, "", expression)
    return None


def _share(users: list[_User]) -> str | None:
    """Give users of one structure one expression; the reason where that cannot be."""
    lists = [user.constants for user in users]
    differing = [
        place for place, column in enumerate(zip(*lists, strict=True)) if len(set(column)) > 1
    ]
    if not differing:
        return None
    epilogue = users[0].attribute == "epilogue"
    if epilogue and any(lists[0][place].dtype != "float32" for place in differing):
        return "constants of an epilogue must be float32"
    inputs = len(users[0].node.attribute("access", ())) if epilogue else _inputs(users)
    if inputs + len(differing) > _MAX_INPUTS:
        return f"the kernel would read {inputs + len(differing)} inputs"
    for user, constants in zip(users, lists, strict=True):
        _lift(user, [constants[place] for place in differing])
    return None


def _inputs(users: list[_User]) -> int:
    return len(users[0].expression.inputs)


def _lift(user: _User, constants: list[Expr]) -> None:
    node = user.node
    epilogue = user.attribute == "epilogue"
    expression = user.expression
    inputs: list[Value | None] = list(node.inputs)
    if not epilogue:
        # An operator may have inputs that became constants, or that are omitted.
        used = [int(part.value or 0) for part in expression.inputs]
        inputs = [node.inputs[index] for index in used]
        kinds = [part.dtype for part in expression.inputs]
        moved = {i: Expr.input(at, kinds[at]) for at, i in enumerate(used)}
        expression = expression.substitute(moved)
    access = list(node.attribute("access", ()))
    replaced: dict[Expr, Expr] = {}
    for constant in constants:
        array = np.array(constant.number, np.dtype(constant.dtype))
        inputs.append(user.rewriter.constant(f"{node.label}.constant", array))
        access.append("scalar")
        place = len(access) if epilogue else len(inputs) - 1
        replaced[constant] = Expr.input(place, constant.dtype)
    expression = _replaced(expression, replaced)
    if epilogue:
        attributes: dict[str, Any] = dict(node.attributes, epilogue=expression, access=access)
        made = Node(node.op, inputs, [], attributes, node.domain, node.version)
    else:
        made = Node("Elementwise", inputs, [], {"expression": expression}, OURS, 1)
    user.rewriter.substitute(node, made)


def _replaced(expression: Expr, constants: dict[Expr, Expr]) -> Expr:
    built: dict[Expr, Expr] = {}
    for part in expression.nodes():
        args = tuple(built[arg] for arg in part.args)
        built[part] = constants.get(part) or Expr(part.op, args, part.value, part.dtype)
    return built[expression]

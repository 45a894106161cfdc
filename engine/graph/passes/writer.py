"""Writing the nodes that take the place of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.ir import AnyArray, Node, Value
from engine.graph.passes.rewrite import Rewriter


class NodeWriter:
    """Collects `nodes`, with values and constants named after `node`."""

    def __init__(self, rewriter: Rewriter, node: Node) -> None:
        self.rewriter = rewriter
        self.node = node
        self.nodes: list[Node] = []

    def emit(
        self,
        op: str,
        *inputs: Value | list[int] | None,
        version: int = 13,
        into: list[Value] | None = None,
        **attributes: Any,
    ) -> Value:
        """Output of a new node, which is `into` where given; a list becomes a constant vector."""
        return self.several(op, 1, *inputs, version=version, into=into, **attributes)[0]

    def several(
        self,
        op: str,
        count: int,
        *inputs: Value | list[int] | None,
        version: int = 13,
        into: list[Value] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        """As `emit`, for a node of `count` outputs."""
        base = f"{self.node.label}_{op.lower()}"
        made = into or [self.rewriter.value(base) for _ in range(count)]
        values: list[Value | None] = [
            self.rewriter.constant("numbers", item) if isinstance(item, list) else item
            for item in inputs
        ]
        self.nodes.append(Node(op, values, made, attributes, domain, version))
        return made

    def constant(self, array: AnyArray) -> Value:
        """A constant tensor."""
        return self.rewriter.constant("constant", array)

    def number(self, value: int) -> Value:
        """A constant scalar."""
        return self.rewriter.constant("number", np.array(value, np.int64))

    def finish(self) -> None:
        """Put the nodes in the place of the old one."""
        self.rewriter.replace(self.node, self.nodes)

"""The typed graph: what a model is between reading it and lowering it.

One node type, one value type. Passes rewrite the graph in place; `engine.graph.verify` checks it
between passes. Operators keep their ONNX names and semantics in the domain ``""``; operators that
only passes create live in the domain ``packhorse`` and are specified in `engine.graph.operators`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.graph.dims import Dim

OURS: Final = "packhorse"
"""Domain of the operators that passes create."""

AnyArray = NDArray[Any]


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    `dtype` is a numpy data type (ml_dtypes for bfloat16 and the float8 family, object for
    strings), None where inference does not know it. `shape` is None where even the rank is unknown
    (also for sequences and optionals, which set `kind`). `data` holds a constant. `dims` holds the
    elements of an integer or boolean tensor of rank 0 or 1 that are known as dim expressions
    (row-major; 0 and 1 for booleans).
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[Dim, ...] | None = None
    data: AnyArray | None = None
    dims: tuple[Dim, ...] | None = None
    kind: str = "tensor"
    producer: Node | None = field(default=None, repr=False)

    @property
    def is_constant(self) -> bool:
        """Whether the value is known before any input is."""
        return self.data is not None

    @property
    def rank(self) -> int:
        """Number of axes; only where the shape is known."""
        assert self.shape is not None, f"rank of {self.name} is unknown"
        return len(self.shape)


@dataclass(eq=False)
class Node:
    """One operator application.

    `inputs` holds None for an omitted optional input; `attributes` holds Python values: int, float,
    str, numpy arrays for tensors, lists of them, and `Graph` for subgraphs. `version` is the opset
    version of `domain` that gives the operator its meaning.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    version: int = 0
    name: str = ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, or `default` where the node does not carry it."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> Value | None:
        """Input `index`, or None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def key(self) -> str:
        """Operator with its domain, for messages and registries: ``Conv``, ``packhorse.Conv``."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    @property
    def label(self) -> str:
        """How messages call the node: its name, else its first output's."""
        return self.name or next((v.name for v in self.outputs if v.name), self.op)


@dataclass(eq=False)
class Graph:
    """Nodes in topological order, with the graph's inputs and outputs.

    Initialisers are values with `data`; one that is also listed as an input in the file counts as a
    constant here. `captures` lists, for a subgraph, the outer values that it reads. `external`
    names the files beside the model that constants were read from.
    """

    name: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    captures: list[Value] = field(default_factory=list)
    external: tuple[str, ...] = ()

    def values(self) -> Iterator[Value]:
        """Every value of the graph once: inputs, constants, node outputs, captures."""
        seen: set[int] = set()
        groups: list[Sequence[Value | None]] = [self.inputs, self.captures]
        groups.extend(seq for node in self.nodes for seq in (node.inputs, node.outputs))
        groups.append(self.outputs)
        for group in groups:
            for value in group:
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield value

    def consumers(self) -> dict[int, list[Node]]:
        """Nodes that read each value, by ``id(value)``; subgraph captures count as reads."""
        readers: dict[int, list[Node]] = {}
        for node in self.nodes:
            read: list[Value] = [v for v in node.inputs if v is not None]
            for subgraph in subgraphs(node):
                read.extend(subgraph.captures)
            for value in read:
                readers.setdefault(id(value), []).append(node)
        return readers

    def replace_uses(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, the graph's outputs too, read `new` instead."""
        for node in self.nodes:
            node.inputs = [new if v is old else v for v in node.inputs]
            for subgraph in subgraphs(node):
                subgraph.captures = [new if v is old else v for v in subgraph.captures]
                subgraph.replace_uses(old, new)
        self.outputs = [new if v is old else v for v in self.outputs]


def subgraphs(node: Node) -> list[Graph]:
    """Subgraphs a node carries as attributes (branches of If, bodies of Loop and Scan)."""
    found: list[Graph] = []
    for attribute in node.attributes.values():
        if isinstance(attribute, Graph):
            found.append(attribute)
        elif isinstance(attribute, list) and attribute and isinstance(attribute[0], Graph):
            # All of a list are of one type, and other lists may have a million items.
            found.extend(attribute)
    return found

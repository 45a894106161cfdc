"""What passes share: names, readers of values, and replacing nodes while they iterate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import AnyArray, Graph, Node, Value, subgraphs


def all_graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and every subgraph inside it, outer ones first."""
    yield graph
    for node in graph.nodes:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


class Names:
    """Names of all values of a graph and its subgraphs; makes new ones that are not taken."""

    def __init__(self, root: Graph) -> None:
        self._taken = {value.name for graph in all_graphs(root) for value in graph.values()}

    def fresh(self, base: str) -> str:
        """A new name that begins with `base`."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def constant_value(name: str, array: AnyArray) -> Value:
    """Constant with the given data."""
    return Value(name, array.dtype, tuple(Dim.of(d) for d in array.shape), array)


class Rewriter:
    """Edits one graph (not its subgraphs) and keeps track of who reads what.

    New nodes take effect at `finish`, in the place of the node they replace or before it, so that
    a loop over `nodes()` sees a consistent graph.
    """

    def __init__(self, graph: Graph, names: Names) -> None:
        self.graph = graph
        self.names = names
        self.changes = 0
        self._readers = graph.consumers()
        self._before: dict[int, list[Node]] = {}
        self._instead: dict[int, list[Node]] = {}

    def nodes(self) -> Iterator[Node]:
        """The graph's nodes as they were at the start, without those replaced since."""
        for node in list(self.graph.nodes):
            if id(node) not in self._instead:
                yield node

    def readers(self, value: Value) -> list[Node]:
        """Nodes that read a value, once per reading input."""
        return self._readers.get(id(value), [])

    def is_output(self, value: Value) -> bool:
        """Whether the value leaves the graph."""
        return any(output is value for output in self.graph.outputs)

    def only_reader(self, value: Value) -> Node | None:
        """The node that reads a value, where no other does and the value does not leave."""
        readers = self.readers(value)
        if len(readers) == 1 and not self.is_output(value):
            return readers[0]
        return None

    def constant(self, base: str, array: AnyArray | Sequence[int]) -> Value:
        """New constant; a sequence of integers becomes an int64 vector."""
        data = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        return constant_value(self.names.fresh(base), data)

    def value(self, base: str, like: Value | None = None) -> Value:
        """New value, with data type and shape of `like` where given."""
        name = self.names.fresh(base)
        return Value(name, like.dtype, like.shape) if like else Value(name)

    def insert(self, anchor: Node, node: Node) -> None:
        """Place a new node before `anchor`."""
        self._attach(node)
        self._before.setdefault(id(anchor), []).append(node)

    def substitute(self, old: Node, new: Node) -> None:
        """Let `new` compute the outputs of `old` in its place."""
        new.outputs = list(old.outputs)
        new.name = new.name or old.name
        self._detach(old)
        self._attach(new)
        self._instead[id(old)] = [new]
        self.changes += 1

    def replace(self, old: Node, new: list[Node]) -> None:
        """Put nodes, which compute the outputs of `old` among others, in its place."""
        self._detach(old)
        for node in new:
            self._attach(node)
        self._instead[id(old)] = new
        self.changes += 1

    def rewire(self, node: Node, inputs: list[Value | None]) -> None:
        """Give a node other inputs."""
        self._detach(node)
        node.inputs = inputs
        self._attach(node)
        self.changes += 1

    def remove(self, node: Node) -> None:
        """Remove a node whose outputs nobody reads any more."""
        self._detach(node)
        self._instead[id(node)] = []
        self.changes += 1

    def bypass(self, node: Node, source: Value) -> bool:
        """Let the readers of a node's only used output read `source` and drop the node.

        An output of the graph keeps its name: the value that takes its place is renamed. Where
        that is impossible (the source is an input, a constant or an output itself) the node stays
        and only its readers change; then the answer is whether any did.
        """
        target = node.outputs[0]
        moved = self.readers(target)
        for reader in moved:
            reader.inputs = [source if v is target else v for v in reader.inputs]
            for inner in subgraphs(reader):
                inner.captures = [source if v is target else v for v in inner.captures]
                inner.replace_uses(target, source)
        self._readers.setdefault(id(source), []).extend(moved)
        self._readers[id(target)] = []
        if self.is_output(target):
            owned = source.producer is not None and any(
                source is v for n in self.graph.nodes for v in n.outputs
            )
            if not owned or self.is_output(source):
                self.changes += bool(moved)
                return bool(moved)
            source.name, target.name = target.name, self.names.fresh(target.name)
            outputs = self.graph.outputs
            self.graph.outputs = [source if v is target else v for v in outputs]
        self.remove(node)
        return True

    def finish(self) -> int:
        """Put the edits into effect; returns how many there were."""
        result: list[Node] = []
        for node in self.graph.nodes:
            self._emit(node, result)
        self.graph.nodes = result
        return self.changes

    def _emit(self, node: Node, result: list[Node]) -> None:
        for earlier in self._before.get(id(node), []):
            self._emit(earlier, result)
        if id(node) in self._instead:
            for later in self._instead[id(node)]:
                self._emit(later, result)
        else:
            result.append(node)

    def _attach(self, node: Node) -> None:
        for value in node.outputs:
            value.producer = node
        for value in self._read(node):
            self._readers.setdefault(id(value), []).append(node)

    def _detach(self, node: Node) -> None:
        for value in self._read(node):
            readers = self._readers.get(id(value), [])
            for index, reader in enumerate(readers):
                if reader is node:
                    del readers[index]
                    break

    @staticmethod
    def _read(node: Node) -> list[Value]:
        read = [value for value in node.inputs if value is not None]
        for inner in subgraphs(node):
            read.extend(inner.captures)
        return read


def update_captures(graph: Graph) -> None:
    """Let every subgraph list exactly the outer values that it reads, constants excepted."""
    for node in graph.nodes:
        for inner in subgraphs(node):
            update_captures(inner)
            inner.captures = _free_values(inner)


def _free_values(graph: Graph) -> list[Value]:
    own = {id(value) for value in graph.inputs}
    own.update(id(value) for node in graph.nodes for value in node.outputs)
    free: dict[int, Value] = {}

    def visit(value: Value | None) -> None:
        if value is not None and not value.is_constant and id(value) not in own:
            free[id(value)] = value

    for node in graph.nodes:
        for value in node.inputs:
            visit(value)
        for inner in subgraphs(node):
            for value in inner.captures:
                visit(value)
    for value in graph.outputs:
        visit(value)
    return list(free.values())


def constant_array(value: Value | None) -> AnyArray | None:
    """Data of a constant, None where the value is absent or not known."""
    return value.data if value is not None else None


def scalar(value: Value | None) -> Any:
    """The single element of a constant as a Python number, None where it is not one element."""
    data = constant_array(value)
    if data is None or data.size != 1 or data.dtype == object:
        return None
    return data.reshape(()).item() if data.dtype.kind in "iufb" else float(data.reshape(()))

"""Recurrent layers that exporters wrote out: as Loop or Scan over cells, or cell after cell.

- ``Loop(T, h, c) { h', c' = Cell(x[i], h, c) } = LSTM(x, W, R, B, h, c)``, likewise GRU and RNN,
  read forwards or backwards.
- ``h1 = Cell(x0, h0), h2 = Cell(x1, h1), ... = LSTM([x0, x1, ...], W, R, B, h0)`` for cells that
  share their weights.

Preconditions: the cell is one that `engine.graph.passes.cells` knows, its weights are constants,
its input is an element of a tensor from outside the loop at every iteration, nothing else is
carried or stacked than its states; of written-out cells none reads as its input what depends on
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.graph.inference.control import runs_all
from engine.graph.ir import AnyArray, Graph, Node, Value, subgraphs
from engine.graph.passes.cells import Affine, Cell, match, match_plain
from engine.graph.passes.manager import PassReport
from engine.graph.passes.measuring import elements
from engine.graph.passes.patterns import original
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, scalar, update_captures

_SHORTEST: Final = 2
"""Fewest cells that become a layer; a single one is faster as the products that it is."""

_BEFORE_ALL: Final = np.iinfo(np.int64).min


class _Left(Exception):  # noqa: N818 - a verdict that becomes a note of the pass
    """What nearly matched is left alone; the text says why."""


def recurrences(graph: Graph) -> PassReport:
    """Rewrite loops and chains of cells in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "Loop":
                try:
                    _rewrite_loop(rewriter, node)
                except _Left as reason:
                    notes.append(f"{node.label}: Loop stays: {reason}")
        changes += rewriter.finish()
        rewriter = Rewriter(inner, names)
        for chain in _chains(inner):
            _rewrite_chain(rewriter, chain)
        done = rewriter.finish()
        if done:
            _sort(inner)
        changes += done
    if changes:
        update_captures(graph)
    return PassReport("recurrences", changes, notes)


@dataclass
class _Layer:
    """What a recurrent node is made of: W, R and B in ONNX's shapes, and the cell's kind."""

    kind: str
    hidden: int
    w: AnyArray
    r: AnyArray
    b: AnyArray
    linear: bool

    def same(self, other: _Layer) -> bool:
        """Whether two layers have the same weights."""
        pairs = ((self.w, other.w), (self.r, other.r), (self.b, other.b))
        alike = self.kind == other.kind and self.linear == other.linear
        return alike and all(a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


def _layer(cell: Cell, inputs: list[Value], state: Value) -> _Layer:
    """Weights of a cell that reads `inputs`, joined, and `state`."""
    hidden = cell.hidden
    sizes = [v.shape[-1].value for v in inputs if v.shape is not None and v.shape[-1].is_constant]

    def rows(gate: Affine | None, value: Value, count: int) -> AnyArray:
        found = None if gate is None else gate.matrix(value)
        return np.zeros((count, hidden), np.float32) if found is None else found

    def bias(gate: Affine | None) -> AnyArray:
        found = None if gate is None else gate.bias
        return np.zeros(hidden, np.float32) if found is None else found

    w = [
        np.concatenate([rows(gate, v, n) for v, n in zip(inputs, sizes, strict=True)])
        for gate in cell.gates
    ]
    r = [rows(gate, state, hidden) for gate in cell.gates]
    state_bias = [np.zeros(hidden, np.float32) for _ in cell.gates]
    if cell.recurrent is not None:
        r[2], state_bias[2] = rows(cell.recurrent, state, hidden), bias(cell.recurrent)
    b = np.concatenate([*map(bias, cell.gates), *state_bias])
    return _Layer(
        cell.kind,
        hidden,
        np.ascontiguousarray(np.concatenate([m.T for m in w])[None]),
        np.ascontiguousarray(np.concatenate([m.T for m in r])[None]),
        np.ascontiguousarray(b[None]),
        cell.linear,
    )


class _Writer:
    """Nodes that stand for a layer, in order."""

    def __init__(self, rewriter: Rewriter, label: str) -> None:
        self.rewriter = rewriter
        self.label = label
        self.nodes: list[Node] = []

    def emit(
        self,
        op: str,
        version: int,
        *inputs: Value | None,
        into: Value | None = None,
        **attributes: Any,
    ) -> Value:
        """Output of a new node, which is `into` where given."""
        result = into or self.rewriter.value(f"{self.label}_{op.lower()}")
        self.nodes.append(Node(op, list(inputs), [result], attributes, "", version))
        return result

    def ints(self, *numbers: int) -> Value:
        """A constant vector."""
        return self.rewriter.constant(f"{self.label}_numbers", list(numbers))

    def layer(
        self, layer: _Layer, x: Value, states: list[Value], backwards: bool = False
    ) -> list[Value]:
        """The recurrent node on x [steps, rows, width]: all states, then the last ones.

        Shapes are [steps, rows, hidden], and [rows, hidden] like those of `states`.
        """
        first = [self.emit("Unsqueeze", 13, state, self.ints(0)) for state in states]
        weights = [
            self.rewriter.constant(f"{self.label}_{name}", array)
            for name, array in (("W", layer.w), ("R", layer.r), ("B", layer.b))
        ]
        attributes: dict[str, Any] = {"hidden_size": layer.hidden}
        attributes["direction"] = "reverse" if backwards else "forward"
        if layer.kind == "GRU":
            attributes["linear_before_reset"] = int(layer.linear)
        results = [self.rewriter.value(f"{self.label}_{i}") for i in range(1 + len(states))]
        inputs = [x, *weights, None, *first]
        self.nodes.append(Node(layer.kind, inputs, results, attributes, "", 14, self.label))
        rows = self.emit("Squeeze", 13, results[0], self.ints(1))
        return [rows, *(self.emit("Squeeze", 13, v, self.ints(0)) for v in results[1:])]


def _rewrite_loop(rewriter: Rewriter, node: Node) -> None:
    body: Graph = node.attribute("body")
    formal = body.inputs[2:]
    final, rows = (
        [original(value) for value in values]
        for values in (body.outputs[1 : 1 + len(formal)], body.outputs[1 + len(formal) :])
    )
    cell, places = _loop_cell(formal, final)
    if cell is None:
        if any(each.op in ("Sigmoid", "Tanh") for each in body.nodes):
            raise _Left("its body is no recurrent cell that is known")
        return
    state = formal[places[0]]
    for place, value in enumerate(node.outputs[: len(formal)]):
        used = rewriter.readers(value) or rewriter.is_output(value)
        if place not in places and used:
            raise _Left(f"it carries {formal[place].name} besides the states of its cell")
    stacked = node.outputs[len(formal) :]
    for row, output in zip(rows, stacked, strict=True):
        if row is not cell.result and (rewriter.readers(output) or rewriter.is_output(output)):
            raise _Left(f"it stacks {row.name} besides the states of its cell")
    inputs = [leaf for leaf in cell.leaves() if leaf is not state]
    if len(inputs) != 1:
        raise _Left(f"its cell has {len(inputs)} inputs besides its state")
    source, axis, backwards = _element(inputs[0], node, body)
    if not runs_all(node, body, elements):
        raise _Left("a condition may end it early")
    limit = node.input(0)
    known = None if limit is None else elements(limit)
    assert source.shape is not None
    if known is None or len(known) != 1 or known[0] != source.shape[axis]:
        raise _Left(f"its iterations are not known to be as many as {source.name} has elements")
    write = _Writer(rewriter, node.label)
    if axis:
        order = [axis, *(a for a in range(3) if a != axis)]
        source = write.emit("Transpose", 13, source, perm=order)
    states = [node.inputs[2 + place] for place in places]
    results = write.layer(
        _layer(cell, inputs, state), source, [s for s in states if s is not None], backwards
    )
    for row, output in zip(rows, stacked, strict=True):
        if row is not cell.result or not output.name:
            continue
        if backwards:
            numbers = [write.ints(n) for n in (-1, _BEFORE_ALL, 0, -1)]
            write.emit("Slice", 13, results[0], *numbers, into=output)
        else:
            write.emit("Identity", 16, results[0], into=output)
    for place, result in zip(places, results[1:], strict=True):
        if node.outputs[place].name:
            write.emit("Identity", 16, result, into=node.outputs[place])
    rewriter.replace(node, write.nodes)


def _loop_cell(formal: list[Value], final: list[Value]) -> tuple[Cell | None, list[int]]:
    """The cell of a loop's body and which carried values are its states."""
    places = {id(value): place for place, value in enumerate(formal)}
    for place, value in enumerate(final):
        cell = match(value)
        if cell is None:
            continue
        if cell.kind == "GRU" and cell.state is formal[place]:
            return cell, [place]
        memory = places.get(id(cell.memory))
        if cell.kind == "LSTM" and memory is not None and final[memory] is cell.next_memory:
            return cell, [place, memory]
    for place, value in enumerate(final):
        cell = match_plain(value)
        if cell is not None and any(leaf is formal[place] for leaf in cell.leaves()):
            return cell, [place]
    return None, []


def _element(value: Value, node: Node, body: Graph) -> tuple[Value, int, bool]:
    """Tensor from outside of which a value is the element of each iteration: axis, backwards."""
    read = value.producer
    if read is None or read.key != "Gather":
        raise _Left(f"the input {value.name} of its cell is not an element of a tensor")
    source, index = read.inputs
    assert source is not None
    assert index is not None
    outside = source.data is not None or any(source is v for v in body.captures)
    if not outside or source.shape is None or len(source.shape) != 3:
        raise _Left(f"the input {value.name} of its cell is computed inside it")
    axis = int(read.attribute("axis", 0)) % 3
    if axis == 2:
        raise _Left(f"the input {value.name} of its cell goes through the features")
    if _counts(index, node, body):
        return source, axis, False
    step = index.producer
    if step is not None and step.key == "Sub" and _counts(step.inputs[1], node, body):
        last = None if step.inputs[0] is None else elements(step.inputs[0])
        if last is not None and len(last) == 1 and last[0] == source.shape[axis] - 1:
            return source, axis, True
    raise _Left(f"the input {value.name} of its cell is not read in order")


def _counts(index: Value | None, node: Node, body: Graph) -> bool:
    """Whether a value is the number of the iteration, or a carried one that counts from 0."""
    if index is body.inputs[0]:
        return True
    for formal, final, start in zip(
        body.inputs[2:], body.outputs[1:], node.inputs[2:], strict=False
    ):
        if formal is not index or scalar(start) != 0:
            continue
        step = final.producer
        if step is not None and step.key == "Add" and any(v is formal for v in step.inputs):
            other = step.inputs[1] if step.inputs[0] is formal else step.inputs[0]
            return bool(scalar(other) == 1)
    return False


@dataclass
class _Chain:
    """Cells that share their weights, each on the state of the one before."""

    cells: list[Cell]
    inputs: list[list[Value]]
    states: list[Value]
    layer: _Layer


def _chains(graph: Graph) -> list[_Chain]:
    """Chains of at least `_SHORTEST` cells."""
    found = [cell for node in graph.nodes for value in node.outputs if (cell := match(value))]
    by_result = {id(cell.result): cell for cell in found}
    readers = graph.consumers()
    outputs = {id(value) for value in graph.outputs}
    used: set[int] = set()
    chains = []
    for cell in reversed(found):
        if id(cell) in used:
            continue
        cells = [cell]
        while (before := _before(cells[0], by_result, readers, outputs)) is not None:
            if id(before) in used:
                break
            cells.insert(0, before)
        chain = _shared(cells)
        while chain is None and len(cells) > _SHORTEST:
            cells = cells[1:]
            chain = _shared(cells)
        if chain is not None and len(chain.cells) >= _SHORTEST:
            used |= {id(each) for each in chain.cells}
            chains.append(chain)
    return chains


def _before(
    cell: Cell, by_result: dict[int, Cell], readers: dict[int, list[Node]], outputs: set[int]
) -> Cell | None:
    """The cell whose states this one reads; its memory must go nowhere else."""
    for leaf in [cell.state] if cell.state is not None else cell.leaves():
        before = None if leaf is None else by_result.get(id(leaf))
        if before is None or before.next_memory is not cell.memory or before.kind != cell.kind:
            continue
        memory = before.next_memory
        # An LSTM's memory has two readers: its own Tanh, and the next forget gate.
        kept = memory is None or len(readers.get(id(memory), [])) == 2
        if kept and id(memory) not in outputs:
            return before
    return None


def _shared(cells: list[Cell]) -> _Chain | None:
    """The chain of cells, None where weights differ or an input depends on one of the cells."""
    if len(cells) < _SHORTEST:
        return None
    states = [cell.result for cell in cells[:-1]]
    second = _split_leaves(cells[1], states[0])
    if second is None:
        return None
    layer = _layer(cells[1], *second)
    first = next(
        (
            leaf
            for leaf in cells[0].leaves()
            if (parts := _split_leaves(cells[0], leaf)) is not None
            and layer.same(_layer(cells[0], *parts))
        ),
        None,
    )
    if first is None:
        return None
    inputs = []
    for cell, state in zip(cells, [first, *states], strict=True):
        parts = _split_leaves(cell, state)
        if parts is None or not layer.same(_layer(cell, *parts)):
            return None
        inputs.append(parts[0])
    made = {id(cell.result) for cell in cells}
    made |= {id(cell.next_memory) for cell in cells if cell.next_memory is not None}
    begin = [first, *([cells[0].memory] if cells[0].memory is not None else [])]
    if _depends([v for each in inputs for v in each] + begin, made):
        return None
    return _Chain(cells, inputs, begin, layer)


def _split_leaves(cell: Cell, state: Value) -> tuple[list[Value], Value] | None:
    leaves = cell.leaves()
    inputs = [leaf for leaf in leaves if leaf is not state]
    if len(inputs) == len(leaves) or not inputs:
        return None
    if state.shape is None or state.shape[-1] != cell.hidden:
        return None
    return inputs, state


def _depends(values: list[Value], made: set[int]) -> bool:
    """Whether a value follows from one that is `made`."""
    seen: set[int] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if id(value) in made:
            return True
        if id(value) in seen or value.producer is None:
            continue
        seen.add(id(value))
        pending.extend(_read(value.producer))
    return False


def _read(node: Node) -> list[Value]:
    read = [value for value in node.inputs if value is not None]
    return read + [value for inner in subgraphs(node) for value in inner.captures]


def _rewrite_chain(rewriter: Rewriter, chain: _Chain) -> None:
    last = chain.cells[-1].result.producer
    assert last is not None
    write = _Writer(rewriter, last.label)
    steps = []
    for inputs in chain.inputs:
        joined = inputs[0] if len(inputs) == 1 else write.emit("Concat", 13, *inputs, axis=1)
        steps.append(write.emit("Unsqueeze", 13, joined, write.ints(0)))
    x = _whole(chain) or write.emit("Concat", 13, *steps, axis=0)
    results = write.layer(chain.layer, x, chain.states)
    replaced = [cell.result for cell in chain.cells]
    for step, value in enumerate(replaced):
        number = rewriter.constant(f"{write.label}_step", np.array(step, np.int64))
        write.emit("Gather", 13, results[0], number, axis=0, into=value)
    memory = chain.cells[-1].next_memory
    if memory is not None:
        write.emit("Identity", 16, results[2], into=memory)
        replaced.append(memory)
    old = [value.producer for value in replaced]
    for node in old:
        assert node is not None
        # All stand in the place of the last; the graph is sorted afterwards.
        rewriter.replace(node, write.nodes if node is last else [])


def _whole(chain: _Chain) -> Value | None:
    """The tensor [steps, rows, width] whose elements in order are the cells' inputs."""
    source: Value | None = None
    for step, inputs in enumerate(chain.inputs):
        node = inputs[0].producer
        if len(inputs) != 1 or node is None or node.key != "Gather":
            return None
        if scalar(node.inputs[1]) != step or node.attribute("axis", 0) != 0:
            return None
        if source is not None and node.inputs[0] is not source:
            return None
        source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) != 3:
        return None
    return source if source.shape[0] == len(chain.cells) else None


def _sort(graph: Graph) -> None:
    """Bring nodes into an order of dependence, otherwise as they were."""
    waiting = {id(v): node for node in graph.nodes for v in node.outputs}
    done: set[int] = set()
    ordered: list[Node] = []
    for root in graph.nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if id(node) in done:
                stack.pop()
                continue
            open_ = [
                maker
                for value in _read(node)
                if (maker := waiting.get(id(value))) is not None and id(maker) not in done
            ]
            if open_:
                stack.extend(open_)
            else:
                done.add(id(node))
                ordered.append(stack.pop())
    graph.nodes = ordered

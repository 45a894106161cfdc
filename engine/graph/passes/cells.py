"""Matching of recurrent cells that are written out in single operators.

What a gate computes before its activation is a sum of products of values with constant matrices.
`affine` brings such a sum into one form, whatever its writing: Gemm or MatMul and Add, one matrix
for all gates that is split afterwards or one per gate, x and h joined or apart. A cell is then an
expression of few operators over such sums (Hochreiter and Schmidhuber 1997; Cho et al., arXiv
1406.1078; ONNX operators LSTM and GRU):

- LSTM: ``c' = s(f) c + s(i) tanh(g)``, ``h' = s(o) tanh(c')``
- GRU: ``h' = (1 - s(z)) n + s(z) h`` with ``n = tanh(p)``; p adds ``s(r) (h R + b)`` to what x
  gives (linear before reset), or ``(s(r) h) R``
- RNN: ``h' = tanh(a)``
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.graph.ir import AnyArray, Node, Value
from engine.graph.passes.rewrite import scalar

_DEEP: Final = 8
"""Longest chain of sums that is followed."""


@dataclass
class Affine:
    """``sum of values @ matrices + bias``; None stands for the identity, by ``id`` of the value."""

    width: int
    values: dict[int, Value] = field(default_factory=dict)
    matrices: dict[int, AnyArray | None] = field(default_factory=dict)
    bias: AnyArray | None = None

    def matrix(self, value: Value) -> AnyArray | None:
        """The matrix of a value, None where it does not occur or is the identity."""
        return self.matrices.get(id(value))


@dataclass
class Cell:
    """One step of a recurrent layer: its gates in ONNX's order, and the states around it.

    `memory` is an LSTM's cell before the step and `next_memory` after it; `state` is the state
    before the step where the cell itself shows which value that is. `linear` tells a GRU that is
    linear before its reset gate, whose hidden gate is two sums.
    """

    kind: str
    result: Value
    gates: list[Affine]
    state: Value | None = None
    memory: Value | None = None
    next_memory: Value | None = None
    linear: bool = False
    recurrent: Affine | None = None

    @property
    def hidden(self) -> int:
        """Size of the state."""
        return self.gates[0].width

    def leaves(self) -> list[Value]:
        """Values that the gates are sums of, each once."""
        found = {key: v for gate in self.gates for key, v in gate.values.items()}
        return list(found.values())


def match(value: Value) -> Cell | None:
    """The LSTM or GRU cell whose new state a value is."""
    return _lstm(value) or _gru(value)


def match_plain(value: Value) -> Cell | None:
    """The plain cell whose new state a value is."""
    source = _argument(value, "Tanh")
    gate = None if source is None else affine(source)
    if gate is None or not gate.values or not _is_gate([gate]):
        return None
    return Cell("RNN", value, [gate])


def affine(value: Value, depth: int = _DEEP) -> Affine | None:
    """A value of known width as a sum of products; the value itself where it is nothing else."""
    if value.shape is None or not value.shape or not value.shape[-1].is_constant:
        return None
    width = value.shape[-1].value
    if value.data is not None:
        return None
    own = Affine(width, {id(value): value}, {id(value): None})
    node = value.producer
    if node is None or node.domain or depth == 0:
        return own
    found = None
    if node.op == "Add":
        found = _sum([_widened(v, width, depth - 1) for v in node.inputs])
    elif node.op == "MatMul":
        found = _product(node.inputs[0], node.inputs[1], False)
    elif node.op == "Gemm":
        found = _gemm(node, width)
    elif node.op in ("Split", "Slice"):
        found = _columns(node, value, width, depth)
    return found or own


def _widened(value: Value | None, width: int, depth: int) -> Affine | None:
    assert value is not None
    data = value.data
    if data is not None:
        one_row = data.size == 1 or (data.size == width and data.shape[-1] == width)
        if data.dtype != np.float32 or not one_row:
            return None
        return Affine(width, bias=np.broadcast_to(data.reshape(-1), (width,)))
    found = affine(value, depth)
    return found if found is not None and found.width == width else None


def _sum(parts: list[Affine | None]) -> Affine | None:
    found: Affine | None = None
    for part in parts:
        if part is None:
            return None
        if found is None:
            found = part
            continue
        if found.values.keys() & part.values.keys():
            return None
        bias = found.bias if part.bias is None else part.bias
        if found.bias is not None and part.bias is not None:
            bias = found.bias + part.bias
        values, matrices = found.values | part.values, found.matrices | part.matrices
        found = Affine(found.width, values, matrices, bias)
    return found


def _product(left: Value | None, right: Value | None, transposed: bool) -> Affine | None:
    """``left @ right`` for a constant matrix; of joined values each has its rows."""
    assert left is not None
    if right is None or right.data is None or right.data.ndim != 2:
        return None
    matrix = right.data.T if transposed else right.data
    if matrix.dtype != np.float32:
        return None
    parts, row = [left], 0
    joined = left.producer
    last = (-1, len(left.shape or ()) - 1)
    if joined is not None and joined.key == "Concat" and joined.attribute("axis") in last:
        parts = [value for value in joined.inputs if value is not None]
    found = Affine(int(matrix.shape[1]))
    for part in parts:
        if part.shape is None or not part.shape[-1].is_constant or id(part) in found.values:
            return None
        rows = part.shape[-1].value
        found.values[id(part)] = part
        found.matrices[id(part)] = matrix[row : row + rows]
        row += rows
    return found if row == matrix.shape[0] else None


def _gemm(node: Node, width: int) -> Affine | None:
    factors = (node.attribute("alpha", 1.0), node.attribute("beta", 1.0))
    if factors != (1.0, 1.0) or node.attribute("transA", 0):
        return None
    found = _product(node.inputs[0], node.inputs[1], bool(node.attribute("transB", 0)))
    bias = node.input(2)
    if bias is None or found is None:
        return found
    return _sum([found, _widened(bias, width, 1)])


def _columns(node: Node, value: Value, width: int, depth: int) -> Affine | None:
    """Columns of a sum: those of its matrices."""
    source = node.inputs[0]
    start = _first_column(node, value)
    if source is None or start is None:
        return None
    whole = affine(source, depth - 1)
    if whole is None or any(matrix is None for matrix in whole.matrices.values()):
        return None
    cut = slice(start, start + width)
    matrices = {key: m[:, cut] for key, m in whole.matrices.items() if m is not None}
    bias = None if whole.bias is None else whole.bias[cut]
    return Affine(width, whole.values, dict(matrices), bias)


def _first_column(node: Node, value: Value) -> int | None:
    """Where an output of Split, or of a Slice of the last axis alone, begins in its input."""
    source = node.inputs[0]
    assert source is not None
    if source.shape is None:
        return None
    last = len(source.shape) - 1
    if node.op == "Split":
        if int(node.attribute("axis", 0)) not in (-1, last):
            return None
        start = 0
        for output in node.outputs:
            if output is value:
                return start
            if output.shape is None or not output.shape[-1].is_constant:
                return None
            start += output.shape[-1].value
        return None
    starts, _, axes, steps = (node.input(i) for i in range(1, 5))
    if starts is None or starts.data is None or starts.data.size != 1 or node.version < 10:
        return None
    if axes is None or scalar(axes) not in (-1, last) or (steps is not None and scalar(steps) != 1):
        return None
    begin, size = int(starts.data.reshape(())), source.shape[-1]
    if not size.is_constant:
        return None
    return begin + size.value if begin < 0 else min(begin, size.value)


def _argument(value: Value | None, op: str) -> Value | None:
    """What an operator of one input is applied to, None where a value is something else."""
    node = None if value is None else value.producer
    return node.inputs[0] if node is not None and node.key == op else None


def _pairs(value: Value | None, op: str) -> Iterator[tuple[Value, Value]]:
    """Operands of a commutative operator, in both orders."""
    node = None if value is None else value.producer
    if node is not None and node.key == op:
        a, b = node.inputs[:2]
        if a is not None and b is not None:
            yield a, b
            yield b, a


def _gated(value: Value) -> Iterator[tuple[Value, Value]]:
    """Ways to see a value as ``sigmoid(gate) * other``: gate before its activation, and other."""
    for first, other in _pairs(value, "Mul"):
        gate = _argument(first, "Sigmoid")
        if gate is not None:
            yield gate, other


def _is_gate(gates: list[Affine]) -> bool:
    """Whether sums are of one width and rank 2, and no value enters one as it is."""
    return all(
        gate.width == gates[0].width
        and gate.values
        and all(v.shape is not None and len(v.shape) == 2 for v in gate.values.values())
        and all(matrix is not None for matrix in gate.matrices.values())
        for gate in gates
    )


def _lstm(value: Value) -> Cell | None:
    for output, bent in _gated(value):
        memory = _argument(bent, "Tanh")
        for kept, added in _pairs(memory, "Add"):
            for forget, before in _gated(kept):
                for enter, new in _gated(added):
                    candidate = _argument(new, "Tanh")
                    if candidate is None:
                        continue
                    gates = [affine(v) for v in (enter, output, forget, candidate)]
                    found = [gate for gate in gates if gate is not None]
                    if len(found) == 4 and _is_gate(found):
                        return Cell("LSTM", value, found, memory=before, next_memory=memory)
    return None


def _gru(value: Value) -> Cell | None:
    for first, second in _pairs(value, "Add"):
        # (1 - z) n + z h
        for update, state in _gated(second):
            for rest, new in _pairs(first, "Mul"):
                node = rest.producer
                if node is None or node.key != "Sub" or scalar(node.inputs[0]) != 1:
                    continue
                if _argument(node.inputs[1], "Sigmoid") is update:
                    found = _gru_of(value, update, new, state)
                    if found is not None:
                        return found
        # n + z (h - n)
        for update, difference in _gated(second):
            node = difference.producer
            if node is not None and node.key == "Sub" and node.inputs[1] is first:
                state_ = node.inputs[0]
                assert state_ is not None
                found = _gru_of(value, update, first, state_)
                if found is not None:
                    return found
    return None


def _gru_of(value: Value, update: Value, new: Value, state: Value) -> Cell | None:
    source = _argument(new, "Tanh")
    z = affine(update)
    hidden = None if source is None else affine(source)
    if z is None or hidden is None:
        return None
    for leaf in list(hidden.values.values()):
        for reset, other in _gated(leaf):
            r = affine(reset)
            matrix = hidden.matrices[id(leaf)]
            values = {key: v for key, v in hidden.values.items() if v is not leaf}
            matrices = {key: hidden.matrices[key] for key in values}
            if r is None:
                continue
            if matrix is not None and other is state:
                values[id(state)], matrices[id(state)] = state, matrix
                n = Affine(hidden.width, values, matrices, hidden.bias)
                if _is_gate([z, r, n]):
                    return Cell("GRU", value, [z, r, n], state=state)
            inner = affine(other) if matrix is None else None
            if inner is not None and list(inner.values.values()) == [state]:
                n = Affine(hidden.width, values, matrices, hidden.bias)
                if _is_gate([z, r, n]) and _is_gate([inner]):
                    return Cell("GRU", value, [z, r, n], state, linear=True, recurrent=inner)
    return None

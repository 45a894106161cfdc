"""Weights of recurrent layers that a run computes, brought into the formats of the kernels.

The formats are those that `engine.plan.recurrent_weights` packs constants to: hidden columns
zero-padded to whole vectors, panels of one vector, the gates of a panel side by side. Here copies
of the program write them, in every run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.codegen.expression import Expr
from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.kernels.recurrent_tiles import PASSES, together
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.elementwise import emit_elementwise
from engine.plan.lower.gather import without
from engine.plan.lower.views import broadcast_view
from engine.plan.lowering import Lowering, NoKernel
from engine.plan.recurrent_weights import padded
from engine.plan.tensor import ONE, Tensor


class ComputedWeights:
    """Emits the weights of one node; `gates` and `directions` are those of its cell.

    `projection` [inputs, columns] and `bias` [columns] are for the product of all inputs, `packed`
    holds the kernel's tensors by field, as in `engine.plan.lower.recurrent`.
    """

    def __init__(self, low: Lowering, node: Node, kind: str, gates: int, directions: int) -> None:
        self.low = low
        self.gates = gates
        self.directions = directions
        self.lanes = low.target.lanes(4)
        w, r = _tensor(low, node, 1), _tensor(low, node, 2)
        if w is None or r is None or not r.shape[2].is_constant:
            raise NoKernel("the size of its state depends on the shape of an input")
        self.hidden = r.shape[2].value
        self.width = padded(self.hidden, self.lanes)
        inputs = w.shape[2]
        flat = directions * gates * self.width
        matrix = self._zeros(inputs, directions, self.panels, gates, self.lanes)
        self._scatter(w, gates, matrix.permute((1, 2, 3, 4, 0)))
        self.projection = matrix.view((inputs, Dim.of(flat)))
        self.packed: dict[str, Tensor] = {}
        first = 0
        for name, part in zip(("r", "r2"), PASSES[kind], strict=False):
            self.packed[name] = self._recurrent(r, first, part)
            first += part
        self.bias = self._bias(_tensor(low, node, 3), kind).view((Dim.of(flat),))
        peephole = _tensor(low, node, 7) if node.op == "LSTM" else None
        if peephole is not None:
            self.packed["peephole"] = self._padded(peephole, 3)

    @property
    def panels(self) -> int:
        """Vectors of hidden columns."""
        return self.width // self.lanes

    def _recurrent(self, r: Tensor, first: int, gates: int) -> Tensor:
        """Some gates of R as [directions, panels, parts, padded, gates of a part, lanes]."""
        side = together(gates)
        parts = gates // side
        whole = self._zeros(self.directions, self.panels, parts, self.width, side, self.lanes)
        for part in range(parts):
            start, size = (first + part * side) * self.hidden, side * self.hidden
            target = without(whole.window(2, Dim.of(part), ONE), 2)
            inner = target.window(2, Dim.of(0), Dim.of(self.hidden))
            rows = r.window(1, Dim.of(start), Dim.of(size))
            self._scatter(rows, side, inner.permute((0, 1, 3, 4, 2)))
        return whole

    def _zeros(self, *shape: Dim | int) -> Tensor:
        low = self.low
        target = low.temp(np.float32, tuple(Dim.of(length) for length in shape), "packed")
        zero = low.constant(np.zeros((), np.float32), "zero")
        emit_copy(low, broadcast_view(zero, target.shape), target)
        return target

    def _scatter(self, source: Tensor, gates: int, target: Tensor) -> None:
        """Copy [directions, gates * hidden, depth] to [directions, panels, gates, lanes, depth]."""
        d, rows, depth = source.strides
        hidden, lanes = self.hidden, self.lanes

        def piece(start: int, panels: int, width: int) -> None:
            if panels == 0 or width == 0:
                return
            shape = tuple(
                Dim.of(n) for n in (self.directions, panels, gates, width, source.shape[2])
            )
            strides = (d, rows * lanes, rows * hidden, rows, depth)
            offset = source.offset + rows * (start * lanes)
            given = replace(source, shape=shape, strides=strides, offset=offset, halo=())
            taken = target.window(1, Dim.of(start), Dim.of(panels))
            emit_copy(self.low, given, taken.window(3, Dim.of(0), Dim.of(width)))

        whole = hidden // lanes
        piece(0, whole, lanes)
        piece(whole, 1, hidden % lanes)

    def _padded(self, source: Tensor, gates: int) -> Tensor:
        """[directions, gates * hidden] as [directions, gates, padded]."""
        target = self._zeros(self.directions, gates, self.width)
        shape = tuple(Dim.of(n) for n in (self.directions, gates, self.panels, self.lanes, 1))
        self._scatter(_deep(source), gates, target.view(shape).permute((0, 2, 1, 3, 4)))
        return target

    def _bias(self, b: Tensor | None, kind: str) -> Tensor:
        """Both biases of every gate, but the state's of a hidden gate that is reset later."""
        target = self._zeros(self.directions, self.panels, self.gates, self.lanes, 1)
        half = Dim.of(self.gates * self.hidden)
        if b is not None:
            own, state = (b.window(1, half * part, half) for part in (0, 1))
            last = Dim.of(2 * self.hidden)
            total = self.low.temp(np.float32, own.shape, "bias")
            terms = [Expr.input(i, "float32") for i in (0, 1)]
            emit_elementwise(self.low, Expr.of("add", *terms), [own, state], total)
            if kind == "gru_linear":
                width = Dim.of(self.hidden)
                emit_copy(self.low, own.window(1, last, width), total.window(1, last, width))
                self.packed["rb"] = self._padded(state.window(1, last, width), 1)
            self._scatter(_deep(total), self.gates, target)
        elif kind == "gru_linear":
            self.packed["rb"] = self._zeros(self.directions, 1, self.width)
        return target


def _deep(tensor: Tensor) -> Tensor:
    """A matrix with a last axis of one element."""
    return replace(tensor, shape=(*tensor.shape, ONE), strides=(*tensor.strides, ONE), halo=())


def _tensor(low: Lowering, node: Node, index: int) -> Tensor | None:
    value: Value | None = node.input(index)
    if value is None:
        return None
    if value.dtype != np.float32 or value.shape is None:
        raise NoKernel(f"the weights {value.name} are {value.dtype}; kernels compute float32")
    return low.read(value)


def is_computed(node: Node) -> bool:
    """Whether a run computes some of a recurrent node's weights."""
    values = [node.input(index) for index in ((1, 2, 3, 7) if node.op == "LSTM" else (1, 2, 3))]
    return any(value is not None and value.data is None for value in values)

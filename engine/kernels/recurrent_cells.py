"""Cells of recurrent layers: what they keep of a row, and how gates make the next state.

Gates are in ONNX order: LSTM input, output, forget, cell; GRU update, reset, hidden. Cell ``gru``
applies the reset gate before the product with the recurrent weights, ``gru_linear`` afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Options
from engine.kernels.activations import activation, joined_cell, joined_output, joined_update
from engine.kernels.strips import Lanes

GATES: Final = {"lstm": 4, "gru": 3, "gru_linear": 3, "rnn": 1}
"""Gates of each cell, in projections."""

PLANES: Final = {"lstm": 3, "gru": 4, "gru_linear": 2, "rnn": 2}
"""Planes of states: the state twice, and what else a cell keeps of each row."""

CELL: Final = 2
UPDATE: Final = 2
GATED: Final = 3
"""Planes of an LSTM's cell, and of a GRU's update gate and gated state."""

PLACE: Final = "hidden padded pitch plane"
"""Fields of a kernel's parameters that say where states lie."""


class Cell:
    """Gate arithmetic of one cell: activations, clipping, and the next state.

    Values are vectors of any number of lanes. Sums of gates are those over inputs, states and
    biases; they are held to the clip range before every activation but that of an LSTM's output.
    """

    def __init__(self, k: KernelBuilder, lanes: Lanes, options: Options) -> None:
        self.k = k
        self.lanes = lanes
        self.functions: Sequence[Sequence[Any]] = options["activations"]
        self.input_forget = bool(options["input_forget"])
        self.clip = k.float("clip") if options["clip"] else None

    def lstm(self, gates: Sequence[Val], memory: Val, peepholes: Sequence[Val]) -> tuple[Val, Val]:
        """State and cell after a step, from sums [i, o, f, c] and the cell before it.

        `peepholes` are weights [i, o, f] of the cell, or empty.
        """
        k = self.k
        i, o, f, c = gates
        if peepholes:
            i, f = k.fma(peepholes[0], memory, i), k.fma(peepholes[2], memory, f)
        if self.usual("Sigmoid", "Tanh", "Tanh") and not self.input_forget:
            i, f, c = (self.held(gate) for gate in (i, f, c))
            after = joined_cell(k, i, f, c, memory)
            if peepholes:
                o = k.fma(peepholes[1], after, o)
            return joined_output(k, self.held(o), after), after
        i = self.act(0, i)
        f = 1.0 - i if self.input_forget else self.act(0, f)
        after = k.fma(f, memory, i * self.act(1, c))
        if peepholes:
            o = k.fma(peepholes[1], after, o)
        return self.act(0, o) * self.act(2, after, clip=False), after

    def gru(self, update: Val, hidden: Val, before: Val) -> Val:
        """State after a step, from the sums of the update and the hidden gate."""
        if self.usual("Sigmoid", "Tanh"):
            return joined_update(self.k, self.held(update), self.held(hidden), before)
        update, hidden = self.act(0, update), self.act(1, hidden)
        return self.k.fma(update, before - hidden, hidden)

    def usual(self, *names: str) -> bool:
        """Whether the cell's activations are these."""
        return tuple(name for name, _, _ in self.functions) == names

    def held(self, value: Val) -> Val:
        """A gate's sum held to the clip range."""
        if self.clip is None:
            return value
        clip = self.k.splat(self.clip, value.type.count)
        return self.lanes.smaller(clip, self.lanes.larger(-clip, value))

    def act(self, number: int, value: Val, clip: bool = True) -> Val:
        """Activation number `number` of the cell, of a value held to the clip range."""
        if clip:
            value = self.held(value)
        name, alpha, beta = self.functions[number]
        return activation(self.k, name, value, alpha, beta)

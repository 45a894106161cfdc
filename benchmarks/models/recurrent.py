"""Single recurrent layers of one direction: rows of features in, states of every step out."""

from typing import Literal

import numpy as np
import onnx

from benchmarks.models.graph import GraphBuilder

Cell = Literal["LSTM", "GRU"]
GATES: dict[Cell, int] = {"LSTM": 4, "GRU": 3}
SEED = 31


def layer(cell: Cell, hidden: int) -> onnx.ModelProto:
    """A layer as wide as its input: [length, batch, hidden] to [length, 1, batch, hidden]."""
    b = GraphBuilder(f"{cell.lower()}_{hidden}", SEED)
    gates = GATES[cell]
    x = b.input("x", ["length", "batch", hidden])
    inputs = [
        x,
        b.weight(b.gaussian((1, gates * hidden, hidden), hidden)),
        b.weight(b.gaussian((1, gates * hidden, hidden), hidden), "recurrence"),
        b.weight(b.gaussian((1, 2 * gates * hidden), 1.0, 0.1), "bias"),
    ]
    attributes = {"hidden_size": hidden}
    if cell == "GRU":
        # As torch exports it.
        attributes["linear_before_reset"] = 1
    y = b.node(cell, inputs, 1, attributes)[0]
    b.output("y", y, ["length", 1, "batch", hidden])
    return b.model()


def recurrent_weight_bytes(cell: Cell, hidden: int) -> int:
    """Bytes of weights that every step reads."""
    return GATES[cell] * hidden * hidden * np.dtype(np.float32).itemsize

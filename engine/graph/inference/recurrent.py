"""Rules of recurrent layers."""

from __future__ import annotations

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference
from engine.graph.inference.registry import rule

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@rule("RNN", "GRU", "LSTM")
def _recurrent(node: Inference) -> None:
    node.rank(0, 3)
    node.rank(1, 3)
    node.rank(2, 3)
    shape, weight, recurrence = node.shape(0), node.shape(1), node.shape(2)
    batch_first = bool(node.attribute("layout", 0))
    batch, steps = (shape[0], shape[1]) if batch_first else (shape[1], shape[0])
    directions = Dim.of(2 if node.attribute("direction", "forward") == "bidirectional" else 1)
    hidden = node.require_equal(
        Dim.of(node.attribute("hidden_size") or recurrence[2]), recurrence[2], "hidden_size and R"
    )
    gates = _GATES[node.node.op]
    node.require_equal(weight[2], shape[2], "the input size of X and W")
    node.require_equal(weight[1], hidden * gates, f"W and hidden_size * {gates}")
    node.require_equal(recurrence[1], hidden * gates, f"R and hidden_size * {gates}")
    node.require_equal(weight[0], directions, "W and the number of directions")
    state = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    node.output(
        0,
        (batch, steps, directions, hidden) if batch_first else (steps, directions, batch, hidden),
    )
    node.output(1, state)
    node.output(2, state)
    for index in (5, 6):
        if node.has(index) and node.value(index).shape is not None:
            if index == 6 and node.node.op != "LSTM":
                break
            node.rank(index, 3)
            for axis, (left, right) in enumerate(zip(node.shape(index), state, strict=True)):
                node.require_equal(left, right, f"the initial state at axis {axis} and the layer")

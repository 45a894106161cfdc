from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from engine.errors import RunError
from tests.engine.graph.support import (
    assert_equal,
    build,
    graph_of,
    interpret,
    node,
    normal,
    run_oracle,
    value,
)

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
STEPS, BATCH, INPUT, HIDDEN = 5, 3, 4, 2


@settings(max_examples=120, deadline=None)
@given(
    op=st.sampled_from(["RNN", "GRU", "LSTM"]),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    given_inputs=st.sets(st.sampled_from(["b", "lengths", "h0", "c0", "p"])),
    activations=st.sampled_from(
        [None, ["Tanh", "Sigmoid", "Relu"], ["Sigmoid", "Affine", "Tanh"], ["HardSigmoid"] * 3]
    ),
    clip=st.sampled_from([None, 0.5]),
    linear=st.booleans(),
)
def test_against_onnxruntime(
    op: str,
    direction: str,
    given_inputs: set[str],
    activations: list[str] | None,
    clip: float | None,
    linear: bool,
) -> None:
    directions = 2 if direction == "bidirectional" else 1
    gates = GATES[op]
    constants: dict[str, np.ndarray] = {
        "w": normal(directions, gates * HIDDEN, INPUT, seed=1),
        "r": normal(directions, gates * HIDDEN, HIDDEN, seed=2),
        "b": normal(directions, 2 * gates * HIDDEN, seed=3),
        "lengths": np.array([5, 2, 4], np.int32),
        "h0": normal(directions, BATCH, HIDDEN, seed=4),
        "c0": normal(directions, BATCH, HIDDEN, seed=5),
        "p": normal(directions, 3 * HIDDEN, seed=6),
    }
    names = ["x", "w", "r"]
    optional = ["b", "lengths", "h0"] + (["c0", "p"] if op == "LSTM" else [])
    names += [name if name in given_inputs else "" for name in optional]
    attributes: dict[str, Any] = {"hidden_size": HIDDEN, "direction": direction}
    if activations is not None:
        attributes["activations"] = activations[: FUNCTIONS[op]] * directions
        if "Affine" in attributes["activations"]:
            attributes["activation_alpha"] = [0.5] * directions
            attributes["activation_beta"] = [0.1] * directions
    if clip is not None:
        attributes["clip"] = clip
    if op == "GRU":
        attributes["linear_before_reset"] = int(linear)
    outputs = ["y", "h", "c"][: 3 if op == "LSTM" else 2]
    model = build(
        [node(op, names, outputs, **attributes)],
        [value("x", [STEPS, BATCH, INPUT])],
        [value(o, None) for o in outputs],
        constants,
        opset=14,
    )
    feed = {"x": normal(STEPS, BATCH, INPUT)}
    assert_equal(interpret(graph_of(model), feed), run_oracle(model, feed))


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_a_transposition(op: str) -> None:
    constants = {
        "w": normal(1, GATES[op] * HIDDEN, INPUT, seed=1),
        "r": normal(1, GATES[op] * HIDDEN, HIDDEN, seed=2),
        "h0": normal(1, BATCH, HIDDEN, seed=4),
    }
    constants["h1"] = constants["h0"].swapaxes(0, 1)
    x = normal(STEPS, BATCH, INPUT)
    results = []
    for layout, start, array in ((0, "h0", x), (1, "h1", x.swapaxes(0, 1))):
        names = ["x", "w", "r", "", "", start]
        model = build(
            [node(op, names, ["y", "h"], hidden_size=HIDDEN, layout=layout)],
            [value("x", array.shape)],
            [value("y", None), value("h", None)],
            constants,
        )
        results.append(interpret(graph_of(model), {"x": array}))
    first, second = results
    assert_equal(second, [first[0].transpose(2, 0, 1, 3), first[1].swapaxes(0, 1)])


def test_unknown_activation_is_named() -> None:
    model = build(
        [node("RNN", ["x", "w", "r"], ["y"], hidden_size=HIDDEN, activations=["Wave"])],
        [value("x", [STEPS, BATCH, INPUT])],
        [value("y", None, TensorProto.FLOAT)],
        {"w": normal(1, HIDDEN, INPUT), "r": normal(1, HIDDEN, HIDDEN)},
    )
    with pytest.raises(RunError, match="'Wave' is unknown"):
        interpret(graph_of(model), {"x": normal(STEPS, BATCH, INPUT)})

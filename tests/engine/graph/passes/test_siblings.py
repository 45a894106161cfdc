"""Narrow convolutions of one input: when they are joined, and that the results stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import engine
from tests.engine.equality import assert_equal
from tests.engine.models import serialise, tensor

RNG = np.random.default_rng(0)


def weights(outputs: int, kernel: int = 1) -> Any:
    return RNG.standard_normal((outputs, 8, kernel, kernel)).astype(np.float32)


def heads(**filters: Any) -> bytes:
    """A convolution to 8 channels, then one per head, each with a bias of its own."""
    constants = {"stem": RNG.standard_normal((8, 5, 3, 3)).astype(np.float32)}
    nodes: list[onnx.NodeProto] = [helper.make_node("Conv", ["x", "stem"], ["features"])]
    for name, array in filters.items():
        constants[f"w_{name}"] = array
        constants[f"b_{name}"] = RNG.standard_normal(len(array)).astype(np.float32)
        inputs = ["features", f"w_{name}", f"b_{name}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c_{name}"]))
        activation = "Softmax" if name == "scores" else "Relu"
        attributes = {"axis": 1} if name == "scores" else {}
        nodes.append(helper.make_node(activation, [f"c_{name}"], [name], **attributes))
    return serialise(nodes, [tensor("x", ["n", 5, "h", "w"])], list(filters), constants)


def products(model: bytes) -> int:
    operations = engine.load(model, threads=1).explain().operations
    return sum(operation.kernel == "dot" for operation in operations)


@pytest.mark.parametrize("size", [(1, 9, 12), (3, 20, 7)])
def test_heads_are_joined(size: tuple[int, int, int]) -> None:
    model = heads(scores=weights(2), boxes=weights(4), points=weights(10))
    # The stem, scores without an activation, and the two that end in Relu together.
    assert products(model) == 3
    feeds = {"x": RNG.standard_normal((size[0], 5, *size[1:])).astype(np.float32)}
    expected = onnxruntime.InferenceSession(model).run(None, feeds)
    results = engine.load(model, threads=2).run(feeds)
    for found, wanted in zip(results.values(), expected, strict=True):
        assert_equal(found, wanted)


def test_joined_heads_give_the_bytes_of_separate_ones() -> None:
    one, two = weights(3), weights(5)
    stem = RNG.bit_generator.state
    joined = heads(a=one, b=two)
    RNG.bit_generator.state = stem
    alone = heads(a=one)
    assert products(joined) == 2
    feeds = {"x": RNG.standard_normal((2, 5, 11, 13)).astype(np.float32)}
    found = engine.load(joined, threads=1).run(feeds)["a"]
    assert found.tobytes() == engine.load(alone, threads=1).run(feeds)["a"].tobytes()


@pytest.mark.parametrize(
    "filters",
    [
        {"a": weights(4), "b": weights(4, 3)},
        {"a": weights(16), "b": weights(16)},
        {"a": weights(4), "b": weights(17)},
    ],
    ids=["another window", "no vector saved", "not narrow"],
)
def test_others_stay_apart(filters: dict[str, Any]) -> None:
    assert products(heads(**filters)) == 3

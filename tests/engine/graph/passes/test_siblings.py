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
    return sum(operation.kernel in ("dot", "heads") for operation in operations)


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


def scaled(shape: tuple[int, ...], *factors: float) -> bytes:
    """Heads of 4 channels, each multiplied by a number of its own behind its activation."""
    constants = {"stem": RNG.standard_normal((8, 5, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "stem"], ["features"])]
    for i, factor in enumerate(factors):
        constants |= {f"w{i}": weights(4), f"f{i}": np.full(shape, factor, np.float32)}
        nodes.append(helper.make_node("Conv", ["features", f"w{i}"], [f"c{i}"]))
        nodes.append(helper.make_node("Tanh", [f"c{i}"], [f"t{i}"]))
        nodes.append(helper.make_node("Mul", [f"t{i}", f"f{i}"], [f"y{i}"]))
    outputs = [f"y{i}" for i in range(len(factors))]
    return serialise(nodes, [tensor("x", ["n", 5, "h", "w"])], outputs, constants)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (4, 1, 1)])
def test_numbers_of_their_own_keep_heads_apart_unless_they_are_per_channel(
    shape: tuple[int, ...],
) -> None:
    per_channel = shape == (4, 1, 1)
    model = scaled(shape, 2.0, 3.0)
    assert products(model) == (2 if per_channel else 3)
    assert products(scaled(shape, 2.0, 2.0)) == 2
    feeds = {"x": RNG.standard_normal((2, 5, 9, 7)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(model).run(None, feeds)
    results = engine.load(model, threads=1).run(feeds)
    for found, wanted in zip(results.values(), expected, strict=True):
        assert_equal(found, wanted)


def test_groups_stay_apart() -> None:
    constants = {"a": weights(4)[:, :4], "b": weights(4)[:, :4]}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "a"], ["y"], group=2),
        helper.make_node("Conv", ["r", "b"], ["z"], group=2),
    ]
    model = serialise(nodes, [tensor("x", ["n", 8, "h", "w"])], ["y", "z"], constants)
    feeds = {"x": RNG.standard_normal((2, 8, 6, 5)).astype(np.float32)}
    expected = onnxruntime.InferenceSession(model).run(None, feeds)
    results = engine.load(model, threads=1).run(feeds)
    for found, wanted in zip(results.values(), expected, strict=True):
        assert_equal(found, wanted)

"""Pooling models against onnxruntime: padding modes, ceiling, global pooling, both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import engine
from tests.engine.harness import ISAS
from tests.engine.single import Single


def data(*shape: int, dtype: Any = np.float32) -> Any:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 9).astype(dtype)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 2]},
    "padded": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "uneven": {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [0, 1, 1, 2]},
    "ceiling": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceiling-padded": {
        "kernel_shape": [3, 3],
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "ceil_mode": 1,
    },
    "same-upper": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same-lower": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"kernel_shape": [3, 3], "strides": [2, 1], "auto_pad": "VALID"},
    "dilated": {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 1, 1, 0]},
}
SHAPES = ((1, 3, 9, 11), (2, 5, 7, 8), (3, 1, 10, 7))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "include", "LpPool"])
def test_images_of_any_size(op: str, case: str) -> None:
    attributes = dict(CASES[case])
    if op == "include":
        op, attributes["count_include_pad"] = "AveragePool", 1
    if op == "LpPool" and "dilations" not in attributes:
        attributes["p"] = 1
    model = Single(op, {"x": data(*SHAPES[0])}, **attributes)
    for shape in SHAPES:
        model.check(x=data(*shape))


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("case", ["padded", "ceiling", "ceiling-padded"])
def test_means_of_older_operator_sets(case: str, include: int) -> None:
    x = data(1, 3, 10, 8)
    Single("AveragePool", {"x": x}, opset=11, count_include_pad=include, **CASES[case]).check(x=x)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_other_ranks(op: str, rank: int) -> None:
    x = data(2, 5, *(9,) * rank)
    pads = [1] * (2 * rank)
    Single(op, {"x": x}, kernel_shape=[3] * rank, strides=[2] * rank, pads=pads).check(x=x)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_whole_images(op: str, rank: int) -> None:
    model = Single(op, {"x": data(1, 2, *(3,) * rank)})
    for size in (1, 4, 7):
        model.check(x=data(2, 5, *(size,) * rank))


def network(op: str, **attributes: Any) -> bytes:
    """Convolution, pooling, convolution, mean: the layout pass makes it channels-last."""
    weights = {"first": data(20, 3, 3, 3) / 20, "second": data(7, 20, 1, 1) / 20}
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        make(op, ["a"], ["b"], **attributes),
        make("Conv", ["b", "second"], ["c"]),
        make("GlobalAveragePool", ["c"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 7, 1, 1])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", ["padded", "ceiling-padded", "same-upper", "dilated"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_channels_last_networks(isa: str, op: str, case: str) -> None:
    model = network(op, **CASES[case])
    session = engine.load(model, threads=2, isa=isa)
    explanation = session.explain()
    assert explanation.fallback_count == 0
    assert any(o.op == f"packhorse.{op}" for o in explanation.operations)
    oracle = onnxruntime.InferenceSession(model)
    for shape in ((1, 3, 12, 15), (3, 3, 9, 9)):
        x = data(*shape)
        found, wanted = session.run({"x": x})["y"], oracle.run(None, {"x": x})[0]
        atol = 1e-4 * np.abs(wanted).max() + 1e-5
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)
        assert found[:1].tobytes() == session.run({"x": x[:1]})["y"].tobytes()

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

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


def compare(
    middle: Any, feed: dict[str, np.ndarray], constants: dict[str, Any], opset: int = 17
) -> None:
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feed.items()}
    inputs = [value(name, array.shape, types[name]) for name, array in feed.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in middle.output]
    model = build([middle], inputs, outputs, constants, opset=opset)
    assert_equal(interpret(graph_of(model), feed), run_oracle(model, feed))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_global_max_pool(shape: tuple[int, ...]) -> None:
    compare(node("GlobalMaxPool", ["x"], ["y"]), {"x": normal(*shape)}, {})


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.float32, np.int8, np.uint8]))
def test_max_pool_with_places(data: st.DataObject, dtype: Any) -> None:
    draw, rank = data.draw, data.draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    placement = draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if placement == "pads":
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in kernel]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attributes["auto_pad"] = placement
        attributes["strides"] = [min(pair) for pair in zip(strides, kernel, strict=True)]
    attributes["storage_order"] = draw(st.integers(0, 1))
    sizes = draw(st.lists(st.integers(5, 8), min_size=rank, max_size=rank))
    x = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 20, (2, 3, *sizes))
    compare(node("MaxPool", ["x"], ["y", "places"], **attributes), {"x": x.astype(dtype)}, {})


def test_max_pool_looks_at_what_lies_inside() -> None:
    """Of a window of 1,000,000,001 elements, which would take minutes tap by tap."""
    x, half = normal(1, 2, 7), 500_000_000
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[2 * half + 1], pads=[half, half])
    model = build([pool], [value("x", x.shape)], [value("y", None)])
    (found,) = interpret(graph_of(model), {"x": x})
    assert_equal(found, np.repeat(x.max(-1, keepdims=True), 7, -1))


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, -2])
@pytest.mark.parametrize("depth", [np.int64(4), np.array([4], np.int64)])
def test_one_hot(axis: int, depth: Any) -> None:
    constants = {
        "i": np.array([[0, 3, -1], [7, -5, 2]], np.int64),
        "d": depth,
        "v": np.array([-1, 2], np.float32),
    }
    compare(node("OneHot", ["i", "d", "v"], ["y"], axis=axis), {}, constants)


@pytest.mark.parametrize("opset", [7, 9])
def test_batch_normalization(opset: int) -> None:
    constants = {"s": normal(3), "m": normal(3, seed=1), "v": np.abs(normal(3, seed=2))}
    middle = node("BatchNormalization", ["x", "s", "m", "m", "v"], ["y"], momentum=0.5)
    compare(middle, {"x": normal(2, 3, 4)}, constants, opset)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_flattening_softmax(op: str, axis: int) -> None:
    compare(node(op, ["x"], ["y"], axis=axis), {"x": normal(2, 3, 4)}, {}, 11)


def test_squeeze_of_unsorted_axes() -> None:
    compare(node("Squeeze", ["x"], ["y"], axes=[3, 0]), {"x": normal(1, 2, 3, 1)}, {}, 11)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("pads", [[0, 1, 1, 2], [-1, 2, 0, -1], [0, -2, 0, -1]])
def test_pad(mode: str, pads: list[int]) -> None:
    constants = {"p": np.array(pads, np.int64)}
    compare(node("Pad", ["x", "p"], ["y"], mode=mode), {"x": normal(4, 5)}, constants)


def test_pad_of_some_axes() -> None:
    constants = {
        "p": np.array([1, 2], np.int64),
        "v": np.float32(7),
        "a": np.array([-1], np.int64),
    }
    compare(node("Pad", ["x", "p", "v", "a"], ["y"]), {"x": normal(2, 3)}, constants, 18)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2]),
    kernel=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    placement=st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER", "output_padding"]),
    biased=st.booleans(),
)
def test_conv_transpose(
    groups: int, kernel: list[int], stride: int, dilation: int, placement: str, biased: bool
) -> None:
    rank = len(kernel)
    attributes: dict[str, Any] = {"strides": [stride] * rank, "dilations": [dilation] * rank}
    if placement == "pads":
        attributes["pads"] = [0, 1][:rank] * 2
    elif placement == "output_padding":
        attributes["output_padding"] = [stride - 1] * rank
    else:
        # For a kernel that is smaller than the stride the specification leaves the sizes open.
        assume(placement == "VALID" or (min(kernel) - 1) * dilation + 1 >= stride)
        attributes["auto_pad"] = placement
    constants = {"w": normal(4, 3, *kernel)}
    names = ["x", "w"]
    if biased:
        constants["b"] = normal(3 * groups, seed=2)
        names.append("b")
    middle = node("ConvTranspose", names, ["y"], group=groups, **attributes)
    compare(middle, {"x": normal(2, 4, *(5,) * rank)}, constants)

"""Transposed convolution against onnxruntime, over drawn attributes and sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

import engine
from tests.engine.equality import assert_equal
from tests.engine.models import serialise, tensor


@pytest.mark.parametrize("rank", [1, 2])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_onnxruntime(rank: int, data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [data.draw(st.integers(0, 2)) for _ in range(2 * rank)]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    size = [data.draw(st.integers(1, 7)) for _ in range(rank)]
    for axis in range(rank):
        length = (size[axis] - 1) * strides[axis] + kernel[axis] + extra[axis]
        assume(length > pads[axis] + pads[rank + axis])
    channels, outputs = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((channels, outputs, *kernel)).astype(np.float32)}
    if data.draw(st.booleans()):
        weights["b"] = rng.standard_normal(outputs).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose",
        ["x", *weights],
        ["c"],
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        output_padding=extra,
    )
    relu = helper.make_node("Relu", ["c"], ["y"])
    axes = [f"s{i}" for i in range(rank)]
    model = serialise([node, relu], [tensor("x", ["n", channels, *axes])], ["y"], weights)
    x = rng.standard_normal((2, channels, *size)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(model, options).run(None, {"x": x})[0]
    session = engine.load(model, threads=2)
    assert session.explain().fallback_count == 0
    together = session.run({"x": x})["y"]
    assert_equal(together, expected)
    assert session.run({"x": x[1:]})["y"].tobytes() == together[1:].tobytes()

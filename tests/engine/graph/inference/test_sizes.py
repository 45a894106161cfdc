"""Sizes that operators give: against onnxruntime in every version, and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.graph.inference import infer
from engine.graph.reader import read
from tests.engine.graph.inference.support import (
    assert_equals_run,
    graph_of,
)

OLD_AND_NEW = [
    (8, "y = Slice<starts=[1, -3], ends=[100, -1], axes=[2, 3]>(x)"),
    (8, "y = Pad<pads=[0, 0, 1, 2, 0, 0, 3, 4]>(x)"),
    (8, "y = Upsample<scales=[1.0, 1.0, 1.7, 2.0]>(x)"),
    (9, "s = Constant<value=float[4] {1.0, 1.0, 1.3, 2.6}>() y = Upsample(x, s)"),
    (10, "s = Constant<value=float[4] {1.0, 1.0, 1.3, 0.6}>() y = Resize(x, s)"),
    (13, "s = Constant<value=float[4] {1.0, 1.0, 1.3, 0.6}>() y = Resize(x, , s)"),
    (13, "s = Constant<value=int64[4] {2, 4, 5, 7}>() y = Resize(x, , , s)"),
    (9, "y, i = TopK<k=2, axis=2>(x)"),
    (10, "k = Constant<value=int64[1] {2}>() y, i = TopK<axis=2>(x, k)"),
    (8, "a, b = Split<axis=1, split=[1, 3]>(x) y = Concat<axis=1>(b, a)"),
    (8, "y, b = Split<axis=1>(x)"),
    (18, "b, y = Split<axis=2, num_outputs=2>(x)"),
    (13, "s = Constant<value=int64[2] {1, 3}>() a, y = Split<axis=1>(x, s)"),
    (8, "a = ReduceMean<axes=[0], keepdims=1>(x) y = Squeeze<axes=[0]>(a)"),
    (13, "z = Constant<value=int64[1] {0}>() a = ReduceSum(x, z) y = Squeeze(a, z)"),
    (8, "y = Unsqueeze<axes=[0, 5]>(x)"),
    (13, "s = Constant<value=int64[2] {-1, 0}>() y = Unsqueeze(x, s)"),
    (8, "y = ReduceMean<axes=[1, 3], keepdims=0>(x)"),
    (18, "s = Constant<value=int64[2] {1, -1}>() y = ReduceMean<keepdims=0>(x, s)"),
    (18, "y = ReduceMean<noop_with_empty_axes=1>(x)"),
    (8, "y = Dropout<ratio=0.5>(x)"),
    (13, "y = Dropout(x)"),
    (8, "y = Flatten<axis=2>(x)"),
    (13, "y = Flatten<axis=-1>(x)"),
    (8, "s = Constant<value=int64[3] {0, -1, 4}>() y = Reshape(x, s)"),
    (14, "s = Constant<value=int64[4] {-1, 2, 2, 1}>() y = Reshape<allowzero=1>(x, s)"),
    (8, "y = Clip<min=0.0>(x)"),
    (8, "y = Softmax<axis=2>(x)"),
    (13, "y = Softmax<axis=2>(x)"),
    (8, "y = MaxPool<kernel_shape=[3, 2], strides=[2, 2]>(x)"),
    (18, "y, i = MaxPool<kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, pads=[1, 0, 0, 1]>(x)"),
    (18, "y = AveragePool<kernel_shape=[3, 3], strides=[3, 2], auto_pad=\"SAME_LOWER\">(x)"),
    (18, "y = LpPool<kernel_shape=[2, 2], dilations=[2, 1]>(x)"),
    (18, "y = GlobalMaxPool(x)"),
    (18, "y = DepthToSpace<blocksize=2>(x)"),
    (13, "a = Constant<value=int64 {2}>() y = CumSum(x, a)"),
    (18, "y = ArgMax<axis=-1, keepdims=0>(x)"),
    (18, "y = Einsum<equation=\"nchw->nhc\">(x)"),
    (18, "s = Shape<start=1, end=-1>(x) y = Identity(s)"),
    (18, "s = Size(x) y = Neg(s)"),
    (18, "i = Constant<value=int64[2, 1] {3, 0}>() y = Gather<axis=1>(x, i)"),
    (18, "d = Constant<value=int64[1] {5}>() v = Constant<value=float[2] {0.0, 1.0}>() "
         "c = Cast<to=7>(x) y = OneHot<axis=1>(c, d, v)"),
    (18, "r = Constant<value=int64[4] {1, 2, 1, 3}>() y = Tile(x, r)"),
    (18, "s = Constant<value=int64[5] {2, 1, 1, 1, 1}>() y = Expand(x, s)"),
    (18, "s = Constant<value=int64[2] {1, 2}>() p = Constant<value=int64[4] {0, 1, 2, 0}>() "
         "y = Pad(x, p, , s)"),
    (18, "s = Shape(x) y = ConstantOfShape<value=int32[1] {1}>(s)"),
    (18, "s = Shape<start=2, end=3>(x) a = Squeeze(s) z = Constant<value=int64 {1}>() "
         "d = Constant<value=int64 {3}>() y = Range(z, a, d)"),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "body"), OLD_AND_NEW)
def test_operator_versions_equal_onnxruntime(opset: int, body: str) -> None:
    graph, content = graph_of(f"g (float[N, 4, H, W] x) => (y) {{ {body} }}", opset)
    assert infer(graph) == [] or "Reshape" in body
    for sizes in ({"N": 1, "H": 8, "W": 10}, {"N": 3, "H": 7, "W": 11}, {"N": 2, "H": 4, "W": 4}):
        if "Reshape" not in body or sizes["H"] * sizes["W"] % 4 == 0:
            assert_equals_run(graph, content, sizes)


CONVOLUTION = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "begin": st.integers(0, 2),
        "end": st.integers(0, 2),
        "auto_pad": st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    CONVOLUTION,
    st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool"]),
    st.booleans(),
    st.integers(1, 14),
)
def test_windows_equal_onnxruntime(
    window: dict[str, Any], operator: str, ceil: bool, size: int
) -> None:
    pooling = operator in ("MaxPool", "AveragePool")
    pads = [window["begin"], window["end"]]
    assume(not pooling or max(pads) < window["kernel"])
    assume(operator != "ConvTranspose" or window["auto_pad"] == "NOTSET")
    attributes: dict[str, Any] = {
        "kernel_shape": [window["kernel"]],
        "strides": [window["stride"]],
        "dilations": [window["dilation"]],
    }
    # onnxruntime refuses dilations and strides beyond the kernel with SAME padding.
    free = window["dilation"] == 1 and window["stride"] <= window["kernel"]
    assume(not window["auto_pad"].startswith("SAME") or free)
    if window["auto_pad"] == "NOTSET":
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = window["auto_pad"]
    if pooling:
        attributes["ceil_mode"] = int(ceil and window["auto_pad"] == "NOTSET")
    weight = numpy_helper.from_array(np.ones((2, 2, window["kernel"]), np.float32), "w")
    node = helper.make_node(operator, ["x"] if pooling else ["x", "w"], ["y"], **attributes)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, "L"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c"])],
            [] if pooling else [weight],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    content = model.SerializeToString()
    graph = read(content)
    infer(graph)
    length = graph.outputs[0].shape[2].evaluate({"L": size})  # type: ignore[index]
    assume(length > 0)
    assert_equals_run(graph, content, {"N": 2, "L": size})


BOUND = st.one_of(st.integers(-12, 12), st.sampled_from([2**31 - 1, 2**63 - 1, -(2**63), 10**9]))


@settings(max_examples=200, deadline=None)
@given(BOUND, BOUND, st.sampled_from([-3, -2, -1, 1, 2, 3]), st.integers(0, 10))
def test_slices_equal_numpy(begin: int, end: int, step: int, size: int) -> None:
    text = (
        "g (float[N] x) => (y) { "
        f"b = Constant<value=int64[1] {{{begin}}}>() e = Constant<value=int64[1] {{{end}}}>() "
        f"a = Constant<value=int64[1] {{0}}>() s = Constant<value=int64[1] {{{step}}}>() "
        "y = Slice(x, b, e, a, s) }"
    )
    graph, _ = graph_of(text)
    infer(graph)
    # numpy takes an end of -1 or less, counted from the end, as onnx does past the first element.
    expected = len(np.arange(size)[begin:end:step])
    found = graph.outputs[0].shape
    assert found is not None
    assert found[0].evaluate({"N": size}) == expected

"""The pooling kernels against onnxruntime, over shapes, borders and instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.kernels.pool import AXES
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]


def oracle(op: str, x: Array, **attributes: Any) -> Array:
    """The ONNX operator on a channels-last array, run channels-first by onnxruntime."""
    first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    node = onnx.helper.make_node(op, ["x"], ["y"], **attributes)
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = onnx.helper.make_graph(
        [node],
        "pool",
        [onnx.helper.make_tensor_value_info("x", kind, first.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
    )
    opset = [onnx.helper.make_opsetid("", 22)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: Array = session.run(None, {"x": first})[0]
    return np.ascontiguousarray(np.moveaxis(result, 1, -1))


def pool(
    x: Array,
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    op: str,
    isa: str,
    include_pad: bool = False,
    pieces: int = 1,
) -> Array:
    rank = len(kernel)
    y = np.full((x.shape[0], *out, x.shape[-1]), 7, x.dtype)
    unrolled = kernel[-1] if kernel[-1] in (2, 3) and dilation[-1] == 1 else 0
    spec = KernelSpec.of(
        "pool",
        op=op,
        dtype=str(x.dtype),
        rank=rank,
        dilated=max(dilation) > 1,
        unrolled=unrolled,
        include_pad=include_pad,
    )
    x_strides, y_strides = ([s // x.itemsize for s in a.strides] for a in (x, y))
    words: dict[str, Any] = {"channels": x.shape[-1], "x_n": x_strides[0], "y_n": y_strides[0]}
    for i, axis in enumerate(AXES[3 - rank :]):
        words |= {
            f"size_{axis}": x.shape[1 + i],
            f"out_{axis}": out[i],
            f"kernel_{axis}": kernel[i],
            f"stride_{axis}": stride[i],
            f"pad_{axis}": pads[i],
            f"pad_end_{axis}": pads[rank + i],
            f"dilation_{axis}": dilation[i],
            f"x_{axis}": x_strides[1 + i],
            f"y_{axis}": y_strides[1 + i],
        }
    items = x.shape[0] * int(np.prod(out[:-1]))
    assert run_kernel(spec, isa, items, pieces=pieces, x=x, y=y, **words) == 0
    return y


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    axes = st.tuples
    kernel = draw(axes(*[st.integers(1, 4)] * rank))
    stride = draw(axes(*[st.integers(1, 3)] * rank))
    dilation = draw(axes(*[st.integers(1, 2)] * rank) | st.just((1,) * rank))
    pads = tuple(draw(st.integers(0, k - 1)) for k in kernel * 2)
    size = draw(axes(*[st.integers(1, 9)] * rank))
    channels = draw(st.integers(1, 12) | st.integers(1, 150))
    batch = draw(st.integers(1, 2))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    room = [s + pads[i] + pads[rank + i] - span[i] for i, s in enumerate(size)]
    assume(min(room) >= 0)
    out = tuple(r // s + 1 for r, s in zip(room, stride, strict=True))
    shape = (batch, *size, channels)
    return {
        "shape": shape,
        "out": out,
        "kernel": kernel,
        "stride": stride,
        "pads": pads,
        "dilation": dilation,
    }


def data(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    generator = np.random.default_rng(sum(shape))
    return (generator.standard_normal(shape) * 50).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(windows(), st.sampled_from(ISAS), st.sampled_from(["max", "include", "exclude", "l1", "l2"]))
def test_pool_equals_onnxruntime(window: dict[str, Any], isa: str, mode: str) -> None:
    x = data(window.pop("shape"))
    attributes: dict[str, Any] = {
        "kernel_shape": window["kernel"],
        "strides": window["stride"],
        "pads": window["pads"],
        "dilations": window["dilation"],
    }
    if mode == "max":
        op, kind = "MaxPool", "max"
    elif mode in ("l1", "l2"):
        op, kind = "LpPool", mode
        attributes["p"] = int(mode[1])
    else:
        op, kind = "AveragePool", "average"
        attributes["count_include_pad"] = int(mode == "include")
    expected = oracle(op, x, **attributes)
    if mode == "max":  # of nothing but padding, which the standard makes -inf
        expected = np.where(expected == np.finfo(np.float32).min, -np.inf, expected)
    result = pool(x, **window, op=kind, isa=isa, include_pad=mode == "include")
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "int8", "uint8"])
def test_maximum_of_other_types(isa: str, dtype: str) -> None:
    x = data((2, 7, 5, 37), np.int64).astype(dtype)
    result = pool(x, (4, 3), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), op="max", isa=isa)
    expected = oracle("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_depend_on_the_split(isa: str) -> None:
    x = data((3, 9, 8, 21))
    window = ((5, 4), (3, 3), (2, 2), (1, 1, 1, 0), (1, 1))
    whole = pool(x, *window, op="average", isa=isa)
    split = pool(x, *window, op="average", isa=isa, pieces=3)
    alone = pool(x[1:2], *window, op="average", isa=isa)
    assert whole.tobytes() == split.tobytes()
    assert whole[1:2].tobytes() == alone.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_strided_rows_are_read_in_place(isa: str) -> None:
    whole = data((1, 8, 9, 16))
    window = whole[:, 1:7, 2:8]
    args = ((3, 3), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    expected = pool(np.ascontiguousarray(window), *args, op="max", isa=isa)
    np.testing.assert_array_equal(pool(window, *args, op="max", isa=isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (1, 4, 4, 0)])
def test_empty_images(isa: str, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    y = pool(x, (2, 2), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), op="max", isa=isa)
    assert y.shape == (shape[0], 2, 2, shape[3])

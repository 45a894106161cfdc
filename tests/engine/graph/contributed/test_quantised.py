"""Quantised operators of the domain com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.reader import read
from tests.engine.graph.contributed.support import check, model_of
from tests.engine.graph.contributed.test_operators import normal
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
_examples = settings(max_examples=12, deadline=None)
kinds = st.sampled_from([np.uint8, np.int8])


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def parameters(name: str, scale: float, zero: int, dtype: Any) -> dict[str, Array]:
    return {f"{name}_scale": np.array(scale, np.float32), f"{name}_zero": np.array(zero, dtype)}


def quantised(name: str, shape: tuple[int, ...], dtype: Any, scale: float) -> dict[str, Array]:
    zero = 120 if dtype is np.uint8 else -3
    return {name: integers(shape, dtype, len(name)), **parameters(name, scale, zero, dtype)}


def settled(inputs: dict[str, Array]) -> list[str]:
    """Names of scales and zero points."""
    return [name for name in inputs if name.endswith(("_scale", "_zero"))]


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@given(dtype=kinds, rows=st.integers(1, 5), broadcast=st.booleans())
@_examples
def test_binary(op: str, dtype: Any, rows: int, broadcast: bool) -> None:
    inputs = {
        **quantised("a", (rows, 7), dtype, 0.02),
        **quantised("bb", (7,) if broadcast else (rows, 7), dtype, 0.03),
        **parameters("c", 0.05, 4, dtype),
    }
    check(op, inputs, constants=settled(inputs), steps=1)


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
@given(dtype=kinds)
@settings(max_examples=4, deadline=None)
def test_activations(op: str, dtype: Any) -> None:
    inputs = {**quantised("x", (4, 9), dtype, 0.05), **parameters("y", 0.01, 1, dtype)}
    more = {"alpha": 0.2} if op == "QLinearLeakyRelu" else {}
    check(op, inputs, constants=settled(inputs), steps=1, **more)


@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 12)])
def test_softmax(axis: int, opset: int) -> None:
    inputs = {**quantised("x", (2, 3, 6), np.uint8, 0.05), **parameters("y", 1 / 256, 0, np.uint8)}
    check("QLinearSoftmax", inputs, constants=settled(inputs), steps=1, axis=axis, opset=opset)


@given(dtype=kinds, last=st.booleans(), size=st.integers(3, 6), included=st.booleans())
@_examples
def test_average_pool(dtype: Any, last: bool, size: int, included: bool) -> None:
    shape = (2, size, 5, 3) if last else (2, 3, size, 5)
    inputs = {**quantised("x", shape, dtype, 0.05), **parameters("y", 0.04, 2, dtype)}
    more = {"constants": settled(inputs), "steps": 1, "channels_last": int(last)}
    check(
        "QLinearAveragePool",
        inputs,
        kernel_shape=[3, 2],
        pads=[1, 0, 1, 0],
        count_include_pad=int(included),
        **more,
    )
    check("QLinearGlobalAveragePool", inputs, **more)


def test_concat_and_where() -> None:
    first, second = quantised("a", (2, 3), np.uint8, 0.02), quantised("bb", (2, 4), np.uint8, 0.03)
    result = parameters("y", 0.04, 2, np.uint8)
    inputs = {**result, **first, **second}
    check("QLinearConcat", inputs, constants=settled(inputs), steps=1, axis=1)
    second = quantised("bb", (2, 3), np.uint8, 0.03)
    inputs = {"condition": np.array([[True, False, True]] * 2), **first, **second, **result}
    check("QLinearWhere", inputs, constants=settled(inputs), steps=1)


@given(rows=st.integers(1, 5), columns=st.integers(1, 6), per_column=st.booleans(), dtype=kinds)
@_examples
def test_products_to_float(rows: int, columns: int, per_column: bool, dtype: Any) -> None:
    size = (columns,) if per_column else ()
    weights: dict[str, Array] = {
        "w": integers((7, columns), dtype, 1),
        "w_scale": np.random.default_rng(0).uniform(0.01, 0.1, size).astype(np.float32),
    }
    zero = np.zeros(size, dtype) + 2
    inputs = {
        "a": integers((2, rows, 7), np.uint8),
        "w": weights["w"],
        "a_scale": np.array(0.03, np.float32),
        "w_scale": weights["w_scale"],
        "a_zero": np.array(130, np.uint8),
        "w_zero": zero,
        "bias": normal((columns,), 2),
    }
    check("MatMulIntegerToFloat", inputs, constants=["w", *settled(inputs)])
    dynamic = {"a": normal((2, rows, 7)), **weights, "w_zero": zero, "bias": inputs["bias"]}
    check("DynamicQuantizeMatMul", dynamic, constants=["w", "w_scale", "w_zero"])


@given(rows=st.integers(1, 4), turned=st.booleans(), floats=st.booleans())
@_examples
def test_gemm(rows: int, turned: bool, floats: bool) -> None:
    inputs = {
        **quantised("a", (rows, 6), np.uint8, 0.02),
        **quantised("ww", (5, 6) if turned else (6, 5), np.int8, 0.03),
        "c": integers((5,), np.int8, 3).astype(np.int32),
    }
    if not floats:
        inputs |= parameters("y", 0.2, 9, np.uint8)
    known = [*settled(inputs), "ww", "c"]
    check("QGemm", inputs, constants=known, steps=1, transB=int(turned), alpha=1.0)


@given(
    rows=st.integers(1, 4),
    depth=st.sampled_from([16, 32, 40]),
    zeros=st.booleans(),
    bits=st.sampled_from([4, 8]),
)
@_examples
def test_weights_of_few_bits(rows: int, depth: int, zeros: bool, bits: int) -> None:
    size, columns = 16, 5
    blocks = -(-depth // size)
    inputs: dict[str, Array] = {
        "a": normal((rows, depth)),
        "w": integers((columns, blocks, size * bits // 8), np.uint8, 1),
        "s": np.random.default_rng(2).uniform(0.01, 0.1, (columns, blocks)).astype(np.float32),
    }
    if zeros:
        inputs["z"] = integers((columns, -(-blocks * bits // 8)), np.uint8, 3)
    check(
        "MatMulNBits",
        inputs,
        constants=[name for name in inputs if name != "a"],
        K=depth,
        N=columns,
        bits=bits,
        block_size=size,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantising(dtype: Any, axis: int | None) -> None:
    size = () if axis is None else (4,)
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 0.1, size).astype(np.float32)
    zero = np.zeros(size, dtype) + 3
    more = {} if axis is None else {"axis": axis}
    inputs = {"x": normal((3, 4), scale=3), "scale": scale, "zero": zero}
    check("QuantizeLinear", inputs, constants=["scale", "zero"], **more)
    inputs["x"] = integers((3, 4), dtype)
    check("DequantizeLinear", inputs, constants=["scale", "zero"], **more)


@given(batch=st.integers(1, 3), length=st.integers(1, 4), causal=st.booleans())
@_examples
def test_attention(batch: int, length: int, causal: bool) -> None:
    inputs: dict[str, Array] = {
        "x": integers((batch, length, 6), np.uint8),
        "w": integers((6, 24), np.int8, 1),
        "b": normal((24,), 2),
        "x_scale": np.array(0.005, np.float32),
        "w_scale": np.array(0.01, np.float32),
        "mask": np.full(batch, length, np.int32),
        "x_zero": np.array(120, np.uint8),
        "w_zero": np.array(0, np.int8),
    }
    known = ["w", "b", *settled(inputs)]
    check("QAttention", inputs, constants=known, num_heads=2, unidirectional=int(causal))


def test_dynamic_lstm_is_close() -> None:
    """The other runtime rounds the inputs of its products to 8 bits."""
    hidden = 4
    inputs: dict[str, Array] = {
        "x": normal((5, 2, 3)),
        "w": integers((1, 3, 4 * hidden), np.int8, 1),
        "r": integers((1, hidden, 4 * hidden), np.int8, 2),
        "bias": normal((1, 8 * hidden), 3),
        "w_scale": np.array([0.01], np.float32),
        "w_zero": np.array([0], np.int8),
        "r_scale": np.array([0.01], np.float32),
        "r_zero": np.array([0], np.int8),
    }
    order = ["x", "w", "r", "bias", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    known = [name for name in inputs if name != "x"]
    data = model_of(
        "DynamicQuantizeLSTM",
        inputs,
        constants=known,
        order=order,
        outputs=["y", "h", "c"],
        hidden_size=hidden,
    )
    feed = {"x": inputs["x"]}
    for mine, theirs in zip(interpret(read(data), feed), run_oracle(data, feed), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.02)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_convolution(last: bool, dtype: Any) -> None:
    shape = (2, 5, 6, 4) if last else (2, 4, 5, 6)
    inputs = {
        **quantised("x", shape, dtype, 0.02),
        **quantised("w", (6, 2, 3, 3), np.int8, 0.03) | {"w_zero": np.array(0, np.int8)},
        **parameters("yy", 0.2, 3, dtype),
        "bias": integers((6,), np.int8).astype(np.int32),
    }
    more = {"group": 2, "pads": [1, 0, 1, 1], "channels_last": int(last)}
    constants = [*settled(inputs), "w", "bias"]
    check("QLinearConv", inputs, constants=constants, steps=1, kernel_shape=[3, 3], **more)

"""Operators for which onnxruntime has no CPU kernel, beside onnxruntime on what they stand for.

Their meaning is written here once more, in the text form of ONNX and by another formula where there
is one, and run by onnxruntime; two that it has a kernel for after all are compared directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from engine.graph.contributed.registry import expansions
from engine.graph.reader import read
from tests.engine.equality import assert_equal
from tests.engine.graph.contributed.support import check, model_of
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
_examples = settings(max_examples=8, deadline=None)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def standard(text: str, feeds: dict[str, Array]) -> list[Array]:
    """onnxruntime's outputs of nodes in ONNX's text form, from the fed names to `y` and others."""
    names = [
        f"{helper.tensor_dtype_to_string(helper.np_dtype_to_tensor_dtype(a.dtype))[12:].lower()}"
        f"[{', '.join(map(str, a.shape))}] {name}"
        for name, a in feeds.items()
    ]
    results = [name for name in ("y", "sum") if f"{name} =" in text]
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    declared = f"g ({', '.join(names)}) => ({', '.join(results)})"
    model = onnx.parser.parse_model(f"{head} {declared} {{ {text} }}")
    found: list[Array] = run_oracle(model.SerializeToString(), feeds)
    return found


def check_beside(
    op: str, inputs: dict[str, Array], text: str, outputs: tuple[str, ...] = ("y",), **more: Any
) -> None:
    """The contributed operator gives what onnxruntime gives for `text`."""
    graph = read(model_of(op, inputs, outputs=outputs, **more))
    assert all(not node.domain for node in graph.nodes)
    found = interpret(graph, inputs)
    for mine, theirs in zip(found, standard(text, inputs), strict=True):
        assert_equal(mine, theirs)


SILU = "s = Sigmoid(n) a = Mul(n, s)"
IDENTITY = "a = Identity(n)"


@given(
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    last=st.booleans(),
    activation=st.integers(0, 1),
)
@_examples
def test_group_norm(groups: int, size: int, last: bool, activation: int) -> None:
    channels = groups * size
    shape = (2, 4, 3, channels) if last else (2, channels, 4, 3)
    inputs = {"x": normal(*shape), "g": normal(channels, seed=1), "b": normal(channels, seed=2)}
    first, back = ("[0, 3, 1, 2]", "[0, 2, 3, 1]") if last else ("[0, 1, 2, 3]",) * 2
    text = f"""
        t = Transpose<perm={first}>(x)
        n = GroupNormalization<num_groups={groups}, epsilon=0.001>(t, g, b)
        {SILU if activation else IDENTITY}
        y = Transpose<perm={back}>(a)
    """
    more = {"groups": groups, "activation": activation, "channels_last": int(last)}
    check_beside("GroupNorm", inputs, text, epsilon=0.001, **more)


@pytest.mark.parametrize("skip", [(2, 4, 3, 6), (2, 1, 1, 6), (2, 6)])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_group_norm(skip: tuple[int, ...], bias: bool) -> None:
    inputs = {"x": normal(2, 4, 3, 6), "g": normal(6, seed=1), "b": normal(6, seed=2)}
    inputs["skip"] = normal(*skip, seed=3)
    if bias:
        inputs["bias"] = normal(6, seed=4)
    text = f"""
        wide = Constant<value=int64[4] {{2, -1, 1, {skip[-1]}}}>()
        full = Constant<value=int64[4] {{2, -1, 3, {skip[-1]}}}>()
        k = Reshape(skip, {"full" if skip[1] == 4 else "wide"})
        p = Add(x, k)
        sum = {"Add(p, bias)" if bias else "Identity(p)"}
        t = Transpose<perm=[0, 3, 1, 2]>(sum)
        n = GroupNormalization<num_groups=3>(t, g, b)
        y = Transpose<perm=[0, 2, 3, 1]>(n)
    """
    check_beside("SkipGroupNorm", inputs, text, ("y", "sum"), groups=3, activation=0)


@pytest.mark.parametrize("op", ["NhwcConv", "NhwcFusedConv"])
@given(
    group=st.integers(1, 2), stride=st.integers(1, 2), bias=st.booleans(), seed=st.integers(0, 9)
)
@_examples
def test_channels_last_convolutions(
    op: str, group: int, stride: int, bias: bool, seed: int
) -> None:
    inputs = {"x": normal(2, 6, 5, 4, seed=seed), "w": normal(6, 4 // group, 3, 2, seed=1)}
    if bias:
        inputs["c"] = normal(6, seed=2)
    window = {"group": group, "strides": [stride, 1], "pads": [1, 0, 1, 1], "kernel_shape": [3, 2]}
    fused = op == "NhwcFusedConv"
    more: dict[str, Any] = {"activation": "LeakyRelu", "activation_params": [0.2]} if fused else {}
    attributes = ", ".join(f"{name}={given}" for name, given in window.items())
    text = f"""
        t = Transpose<perm=[0, 3, 1, 2]>(x)
        n = Conv<{attributes}>(t, w{", c" if bias else ""})
        a = {"LeakyRelu<alpha=0.2>(n)" if fused else "Identity(n)"}
        y = Transpose<perm=[0, 2, 3, 1]>(a)
    """
    check_beside(op, inputs, text, **window, **more)


@given(turned=st.tuples(st.booleans(), st.booleans()), alpha=st.sampled_from([1.0, 0.5]))
@_examples
def test_products_with_activations(turned: tuple[bool, bool], alpha: float) -> None:
    inputs = {
        "a": normal(*((4, 3) if turned[0] else (3, 4))),
        "b": normal(*((5, 4) if turned[1] else (4, 5)), seed=1),
    }
    flags: dict[str, Any] = {"transA": int(turned[0]), "transB": int(turned[1]), "alpha": alpha}
    given_flags = ", ".join(f"{name}={number}" for name, number in flags.items())
    text = f"g = Gemm<{given_flags}>(a, b) y = Tanh(g)"
    check_beside("FusedMatMulActivation", inputs, text, activation="Tanh", **flags)
    check("TransposeMatMul", inputs, **flags)


def test_gemm_fast_gelu() -> None:
    """The activation as the operator's paper writes it: ``x/2 (1 + tanh(...))``."""
    inputs = {"a": normal(3, 4), "b": normal(4, 5, seed=1), "c": normal(5, seed=2)}
    text = """
        p = MatMul(a, b) x = Add(p, c)
        three = Constant<value=float {3.0}>() k = Constant<value=float {0.044715}>()
        r = Constant<value=float {0.7978845608}>() h = Constant<value=float {0.5}>()
        one = Constant<value=float {1.0}>()
        cube = Pow(x, three) kc = Mul(cube, k) u = Add(x, kc) ru = Mul(u, r) t = Tanh(ru)
        o = Add(t, one) hx = Mul(x, h) y = Mul(hx, o)
    """
    check_beside("GemmFastGelu", inputs, text)


@given(rows=st.integers(1, 5), depth=st.integers(1, 7), seed=st.integers(0, 99))
@_examples
def test_products_of_16_bit_integers(rows: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-3000, 3000, s).astype(np.int16) for s in ((rows, depth), (depth, 4)))
    check("MatMulInteger16", {"a": a, "b": b})


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    signed=st.booleans(),
    padded=st.booleans(),
    seed=st.integers(0, 9),
)
@_examples
def test_channels_last_maximum(
    kernel: int, stride: int, signed: bool, padded: bool, seed: int
) -> None:
    x = np.random.default_rng(seed).integers(0, 200, (2, 7, 6, 3))
    pads = [int(padded and kernel > 1)] * 4
    window = {"kernel_shape": [kernel, 2], "strides": [stride, 1]}
    window["pads"] = [pads[0], 0, pads[0], 0]
    dtype = np.int8 if signed else np.uint8
    check("NhwcMaxPool", {"x": (x - 100 * signed).astype(dtype)}, **window)


def test_mean_of_quantised_numbers() -> None:
    x = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)
    inputs = {"x": x, "s": np.float32(0.1), "z": np.uint8(100)}
    inputs |= {"t": np.float32(0.05), "v": np.uint8(120)}
    feeds = {name: np.asarray(array) for name, array in inputs.items()}
    text = """
        d = DequantizeLinear(x, s, z) axes = Constant<value=int64[2] {0, 2}>()
        m = ReduceMean<keepdims=0>(d, axes) y = QuantizeLinear(m, t, v)
    """
    check_beside("QLinearReduceMean", feeds, text, axes=[0, 2], keepdims=0)


def test_every_contributed_operator_is_tested() -> None:
    """Its name stands in a test of this folder."""
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    missing = [op for op in expansions() if not any(f'"{op}"' in text for text in texts)]
    assert not missing

"""Products of quantised integers by float arithmetic: exact, split where sums are long, chained."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import engine
from engine.graph.passes import dead_code
from engine.graph.passes.quantization import quantization
from tests.engine.graph.support import build, check, node, operators, run_oracle, value

Array = np.ndarray[Any, Any]
KINDS = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}
kinds = st.sampled_from([np.uint8, np.int8])


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@given(kind=kinds, depth=st.sampled_from([1, 40, 700]), per_column=st.booleans())
@settings(max_examples=10, deadline=None)
def test_integer_matrices(kind: Any, depth: int, per_column: bool) -> None:
    """700 full products exceed 2^24, so that sums are split; every bit must be right."""
    constants = {
        "w": integers((depth, 5), np.int8, 1),
        "xz": np.array(3, kind),
        "wz": integers((5,), np.int8, 2) if per_column else np.array(-7, np.int8),
    }
    model = build(
        [node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])],
        [value("x", ["n", depth], KINDS[kind])],
        [value("y", ["n", 5], TensorProto.INT32)],
        constants,
    )
    x = integers((4, depth), kind)
    x[0] = np.iinfo(kind).max
    graph = check(model, (quantization, dead_code), {"x": x})
    assert "MatMulInteger" not in operators(graph)


def test_integer_convolution() -> None:
    constants = {"w": integers((4, 3, 3, 3), np.uint8, 1), "z": np.array(9, np.uint8)}
    constants["wz"] = np.array(120, np.uint8)
    model = build(
        [node("ConvInteger", ["x", "w", "z", "wz"], ["y"], pads=[1, 1, 1, 1], strides=[2, 1])],
        [value("x", ["n", 3, 8, 9], TensorProto.UINT8)],
        [value("y", None, TensorProto.INT32)],
        constants,
    )
    graph = check(model, (quantization, dead_code), {"x": integers((2, 3, 8, 9), np.uint8)})
    assert "ConvInteger" not in operators(graph)


def scales(**numbers: Any) -> dict[str, Array]:
    return {name: np.asarray(number, np.float32) for name, number in numbers.items()}


def test_a_quantised_network_keeps_no_integers_between_layers() -> None:
    """Two convolutions and a product, per channel and per tensor: one cast at the end."""
    constants = {
        **scales(xs=0.03, w1s=[0.01, 0.02, 0.015, 0.03], h1s=0.2, w2s=0.02, h2s=0.3, w3s=0.01),
        **scales(ys=0.5),
        "xz": np.array(128, np.uint8),
        "hz": np.array(7, np.uint8),
        "w1": integers((4, 3, 3, 3), np.int8, 1),
        "b1": integers((4,), np.int8, 2).astype(np.int32) * 100,
        "w2": integers((6, 4, 1, 1), np.int8, 3),
        "wz": np.array(0, np.int8),
        "w1z": np.zeros(4, np.int8),
        "w3": integers((6, 5), np.int8, 4),
        "shape": np.array([0, 6, -1]),
    }
    nodes = [
        node("QLinearConv", ["x", "xs", "xz", "w1", "w1s", "w1z", "h1s", "hz", "b1"], ["h1"]),
        node("QLinearConv", ["h1", "h1s", "hz", "w2", "w2s", "wz", "h2s", "hz"], ["h2"]),
        node("Reshape", ["h2", "shape"], ["h3"]),
        node("Transpose", ["h3"], ["h4"], perm=[0, 2, 1]),
        node("QLinearMatMul", ["h4", "h2s", "hz", "w3", "w3s", "wz", "ys", "xz"], ["y"]),
    ]
    model = build(
        nodes,
        [value("x", ["n", 3, 8, 8], TensorProto.UINT8)],
        [value("y", None, TensorProto.UINT8)],
        constants,
    )
    feed = {"x": integers((2, 3, 8, 8), np.uint8)}
    check(model, (quantization, dead_code), feed)
    session = engine.load(model.SerializeToString())
    assert session.explain().fallback_count == 0
    np.testing.assert_array_equal(session.run(feed)["y"], run_oracle(model, feed)[0])


def test_dynamic_quantisation_runs_natively() -> None:
    constants = {**scales(s=0.01), "w": integers((40, 8), np.int8, 1), "z": np.array(0, np.int8)}
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("MatMulInteger", ["q", "w", "qz", "z"], ["a"]),
        node("Cast", ["a"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["qs", "s"], ["scale"]),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    model = build(nodes, [value("x", ["n", 40])], [value("y", ["n", 8])], constants)
    session = engine.load(model.SerializeToString())
    assert session.explain().fallback_count == 0
    feed = {"x": np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)}
    expected = run_oracle(model, feed)[0]
    np.testing.assert_allclose(session.run(feed)["y"], expected, atol=1e-4 * np.abs(expected).max())

"""Quantisation as arithmetic: exact, and gone where nobody keeps the integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine.graph.passes import dead_code
from engine.graph.passes.quantization import quantization
from tests.engine.graph.support import (
    after,
    assert_equal,
    build,
    check,
    node,
    normal,
    operators,
    run_oracle,
    value,
)

TYPES = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}


def halves(*shape: int) -> np.ndarray[Any, Any]:
    """Values of which many lie between two steps of 0.25, and some beyond the range."""
    return (np.round(normal(*shape) * 40) / 8).astype(np.float32)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zero", [0, 7])
def test_quantize_alone(kind: str, zero: int) -> None:
    model = build(
        [node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        [value("x", ["n", 50])],
        [value("y", ["n", 50], TYPES[kind])],
        {"s": np.array(0.25, np.float32), "z": np.array(zero, kind)},
        opset=21,
    )
    feed = {"x": np.concatenate([halves(20, 50), halves(20, 50) * 1e4])}
    graph = check(model, (quantization,), feed)
    assert "QuantizeLinear" not in operators(graph)


@pytest.mark.parametrize("kind", TYPES)
def test_pair_leaves_floats_only(kind: str) -> None:
    model = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [value("x", ["n", 50])],
        [value("y", ["n", 50])],
        {"s": np.array(0.25, np.float32), "z": np.array(3, kind)},
        opset=21,
    )
    graph = check(model, (quantization, dead_code), {"x": halves(20, 50)})
    assert operators(graph) == ["Div", "Round", "Add", "Clip", "Sub", "Mul"]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scales_per_axis(axis: int) -> None:
    count = (3, 4, 5)[axis]
    constants = {
        "s": np.linspace(0.1, 0.9, count, dtype=np.float32),
        "z": np.arange(count).astype(np.int8),
    }
    model = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
        ],
        [value("x", [3, 4, 5])],
        [value("y", [3, 4, 5]), value("q", [3, 4, 5], TYPES["int8"])],
        constants,
    )
    graph = check(model, (quantization,), {"x": halves(3, 4, 5)})
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(graph))


def test_accumulators_are_dequantised_without_zero_point() -> None:
    model = build(
        [node("DequantizeLinear", ["x", "s"], ["y"])],
        [value("x", [9], onnx.TensorProto.INT32)],
        [value("y", [9])],
        {"s": np.array(0.01, np.float32)},
    )
    check(model, (quantization,), {"x": np.arange(-4, 5, dtype=np.int32) * 12345})


def test_computed_scale_and_zero_point() -> None:
    model = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [value("x", ["n"]), value("s", []), value("z", [], TYPES["uint8"])],
        [value("q", ["n"], TYPES["uint8"]), value("y", ["n"])],
    )
    feed = {"x": halves(50), "s": np.array(0.25, np.float32), "z": np.array(9, np.uint8)}
    graph = check(model, (quantization, dead_code), feed)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(graph))


def test_computed_scale_per_axis_stays_with_a_reason() -> None:
    model = build(
        [node("QuantizeLinear", ["x", "s"], ["y"])],
        [value("x", [4, 5]), value("s", [5])],
        [value("y", [4, 5], TYPES["uint8"])],
    )
    graph, (report,) = after(model, (quantization,))
    assert operators(graph) == ["QuantizeLinear"]
    assert "not a single number" in report.notes[0]


def test_quantised_convolution_has_no_fallback() -> None:
    constants = {
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.random.default_rng(0).integers(-127, 127, (8, 4, 3, 3)).astype(np.int8),
        "ws": np.linspace(0.01, 0.02, 8, dtype=np.float32),
        "wz": np.zeros(8, np.int8),
    }
    model = build(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
            node("Conv", ["d", "wd"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("QuantizeLinear", ["r", "s", "z"], ["q2"]),
            node("DequantizeLinear", ["q2", "s", "z"], ["y"]),
        ],
        [value("x", ["n", 4, 9, 9])],
        [value("y", ["n", 8, 9, 9])],
        constants,
    )
    feed = {"x": normal(2, 4, 9, 9) * 3}
    session = engine.load(model.SerializeToString(), threads=1)
    explanation = session.explain()
    assert explanation.fallback_count == 0, explanation.fallbacks
    found = session.run(feed)["y"]
    session.close()
    (expected,) = run_oracle(model, feed)
    # Sums that lie next to a rounding boundary may fall to either side: a step, rarely.
    steps = np.abs(found - expected) / constants["s"]
    assert steps.max() <= 1.01
    assert (steps > 0.5).mean() < 0.01
    assert_equal(np.where(steps > 0.5, expected, found), expected)

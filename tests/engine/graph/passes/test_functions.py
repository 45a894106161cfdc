from typing import Any

import numpy as np
import pytest

from engine.graph.passes import functions
from tests.engine.graph.support import INT64, after, build, check, node, normal, operators, value

LABELS = np.random.default_rng(1).integers(0, 5, (3, 4))
CASES: dict[str, tuple[Any, dict[str, np.ndarray[Any, Any]]]] = {
    "attention": (
        node("Attention", ["q", "k", "v"], ["y"], is_causal=1),
        {"q": normal(1, 2, 4, 8), "k": normal(1, 2, 4, 8, seed=1), "v": normal(1, 2, 4, 8, seed=2)},
    ),
    "attention without a mask, with a past": (
        node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"]),
        {
            "q": normal(1, 2, 4, 8),
            "k": normal(1, 2, 4, 8, seed=1),
            "v": normal(1, 2, 4, 8, seed=2),
            "pk": normal(1, 2, 3, 8, seed=3),
            "pv": normal(1, 2, 3, 8, seed=4),
        },
    ),
    "rotary embedding": (
        node("RotaryEmbedding", ["x", "cos", "sin", "at"], ["y"]),
        {
            "x": normal(1, 2, 3, 8),
            "cos": normal(6, 4),
            "sin": normal(6, 4, seed=1),
            "at": np.array([[0, 2, 5]]),
        },
    ),
    "loss": (
        node("SoftmaxCrossEntropyLoss", ["x", "labels"], ["y"], reduction="sum"),
        {"x": normal(3, 5, 4), "labels": LABELS},
    ),
    "shrink": (node("Shrink", ["x"], ["y"], lambd=0.5, bias=0.25), {"x": normal(20)}),
}


@pytest.mark.parametrize("name", CASES)
def test_expanded_as_onnxruntime_computes_it(name: str) -> None:
    call, feed = CASES[name]
    kinds = [INT64 if array.dtype == np.int64 else 1 for array in feed.values()]
    model = build(
        [call, node("Identity", [call.output[-1]], ["end"])],
        [value(k, a.shape, kind) for (k, a), kind in zip(feed.items(), kinds, strict=True)],
        [value(output, None) for output in (*filter(None, call.output), "end")],
        opset=23,
    )
    graph = check(model, [functions], feed, rounds=3)
    assert call.op_type not in operators(graph)


def test_data_types_without_kernels_stay() -> None:
    model = build(
        [node("Shrink", ["x"], ["y"])], [value("x", [4], 11)], [value("y", None, 11)], opset=23
    )
    graph, (report,) = after(model, [functions])
    assert operators(graph) == ["Shrink"]
    assert "float64" in report.notes[0]

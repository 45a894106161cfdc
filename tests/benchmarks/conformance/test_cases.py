"""When outputs pass, and what replaces the constants of the light graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.conformance.cases import Case, difference
from benchmarks.conformance.light import light_model

CASE = Case("test_x", "node", "X", b"", (), 1e-3, 1e-7)
LARGE = np.array([1000.0, 1.0], np.float32)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (LARGE, LARGE),
        (LARGE * np.float32(1.0005), LARGE),
        (LARGE + np.float32(0.05), LARGE),
        ([LARGE, LARGE[:1]], [LARGE, LARGE[:1]]),
        ([np.array(2.0)], [np.array(2.0)]),
        (np.array([np.nan]), np.array([np.nan])),
        (np.array(["a"], object), np.array(["a"], object)),
    ],
)
def test_right(found: Any, wanted: Any) -> None:
    assert difference(CASE, [found], [wanted]) is None


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (LARGE + np.float32(0.2), LARGE),
        (LARGE.astype(np.float64), LARGE),
        (LARGE[:1], LARGE),
        (LARGE.reshape(2, 1), LARGE),
        ([LARGE], [LARGE, LARGE]),
        (np.array([0.0]), np.array([np.nan])),
        (np.array([1]), np.array([2])),
        (np.array(["b"], object), np.array(["a"], object)),
        (None, LARGE),
    ],
)
def test_wrong(found: Any, wanted: Any) -> None:
    assert difference(CASE, [found], [wanted])


def test_light_weights_are_random_and_the_same_each_time() -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    first, (image,) = light_model(folder / "light_shufflenet.onnx")
    again, _ = light_model(folder / "light_shufflenet.onnx")
    assert first == again
    assert image.shape == (1, 3, 224, 224)
    assert all(node.op_type != "ConstantOfShape" for node in first.graph.node)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in first.graph.initializer}
    for node in first.graph.node:
        if node.op_type == "Conv":
            assert weights[node.input[1]].std() > 0.01

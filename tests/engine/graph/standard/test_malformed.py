"""Nodes whose attributes no valid model has are refused, or run as the reference has them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError
from tests.engine.single import Single

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("QuantizeLinear", {"x": np.zeros((2, 3), np.float32), "s": np.ones(3, np.float32)},
     {"axis": 9}),
    ("QuantizeLinear", {"x": np.zeros((2, 3), np.float32), "s": np.ones((2, 3), np.float32)},
     {"axis": 1, "block_size": -2}),
    ("DequantizeLinear", {"x": np.zeros((2, 3), np.int8), "s": np.ones((1, 1, 1), np.float32)},
     {"axis": 0, "block_size": 5}),
    ("Conv", {"x": np.zeros((1, 1, 4, 4)), "w": np.zeros((1, 1, 2, 2))}, {"strides": [0, 1]}),
    ("Conv", {"x": np.zeros((1, 1, 4, 4)), "w": np.zeros((1, 1, 2, 2))}, {"strides": [1]}),
    ("ConvInteger", {"x": np.zeros((1, 3, 4, 4), np.uint8), "w": np.zeros((2, 1, 2, 2), np.uint8)},
     {"group": 5}),
    ("LpPool", {"x": np.zeros((1, 1, 4), np.float32)}, {"kernel_shape": [2, 2], "p": 3}),
    ("LpPool", {"x": np.zeros((1, 1, 4), np.float32)}, {"kernel_shape": [2], "p": -3}),
    ("AffineGrid", {"x": np.zeros((1, 2, 3), np.float32), "s": np.zeros(7, np.int64)}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES)
def test_refused_or_left(
    op: str, inputs: dict[str, np.ndarray[Any, Any]], attributes: dict[str, Any]
) -> None:
    with suppress(EngineError):
        Single(op, inputs, fixed=list(inputs), opset=22, **attributes).run(**inputs)

"""Powers of integers against onnxruntime: whole ones are not truncated to the integer below."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.single import Single


@pytest.mark.parametrize("base", ["int32", "int64"])
@pytest.mark.parametrize("exponent", ["int32", "int64", "float32", "float64"])
def test_powers_of_integers_are_whole(base: str, exponent: str) -> None:
    x, y = (grid.reshape(1, -1) for grid in np.meshgrid(np.arange(-9, 10), np.arange(-3, 10)))
    defined = (y >= 0) | ((x != 0) & exponent.startswith("i"))
    model = Single("Pow", {"x": np.zeros((1, 1), base), "z": np.zeros((1, 1), exponent)}, opset=13)
    model.check(x=x[defined][None].astype(base), z=y[defined][None].astype(exponent))
    roots = np.array([[4, 9, 27, 10**6]]).astype(base)
    if exponent == "float64":
        model.check(x=roots, z=np.array([[0.5, 0.5, 1 / 3, 0.5]]))

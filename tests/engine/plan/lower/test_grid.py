"""GridSample against onnxruntime: every mode, padding and corner rule, in and outside the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.single import Single


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_images(mode: str, padding: str, corners: int, data: st.DataObject) -> None:
    draw = data.draw
    n, c, height, width = draw(st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(2, 6)] * 2))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((n, c, height, width)).astype(np.float32)
    grid = (rng.random((n, 3, 2, 2)) * 4 - 2).astype(np.float32)
    _model(mode, padding, corners, 2).check(x=x, grid=grid)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_volumes(mode: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, 5, 3)).astype(np.float32)
    grid = (rng.random((2, 2, 3, 4, 3)) * 3 - 1.5).astype(np.float32)
    _model(mode, "reflection", 0, 3).check(x=x, grid=grid)


def test_positions_that_are_no_numbers_read_nothing_outside() -> None:
    x = np.ones((1, 1, 3, 3), np.float32)
    grid = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).reshape(1, 1, 2, 2)
    (found,) = _model("linear", "border", 0, 2).run(x=x, grid=grid)
    assert found.shape == (1, 1, 1, 2)


_MODELS: dict[tuple[Any, ...], Single] = {}


def _model(mode: str, padding: str, corners: int, rank: int) -> Single:
    key = (mode, padding, corners, rank)
    if key not in _MODELS:
        arrays = {
            "x": np.zeros((1,) * (rank + 2), np.float32),
            "grid": np.zeros((1,) * (rank + 1) + (rank,), np.float32),
        }
        options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        _MODELS[key] = Single("GridSample", arrays, opset=20, **options)
    return _MODELS[key]

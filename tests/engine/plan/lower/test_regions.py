"""RoiAlign against onnxruntime: regions in and outside of the image, turned over, and empty."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import RunError
from tests.engine.harness import ISAS
from tests.engine.single import Array, Single

FORMS: dict[str, dict[str, Any]] = {
    "old": {"opset": 10},
    "half_pixel": {"opset": 16, "coordinate_transformation_mode": "half_pixel"},
    "plain": {"opset": 16, "coordinate_transformation_mode": "output_half_pixel"},
}


@cache
def align(form: str, mode: str, ratio: int, isa: str) -> Single:
    arrays = {
        "x": np.zeros((1,) * 4, np.float32),
        "rois": np.zeros((1, 4), np.float32),
        "images": np.zeros(1, np.int64),
    }
    options = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5}
    return Single(
        "RoiAlign", arrays, mode=mode, sampling_ratio=ratio, isa=isa, **options, **FORMS[form]
    )


def regions(rng: np.random.Generator, count: int, reach: float) -> Array:
    first = rng.uniform(-5, reach, (count, 2))
    last = first + rng.uniform(-2, reach, (count, 2))
    return np.concatenate([first, last], 1).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("form", list(FORMS))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_regions(form: str, mode: str, ratio: int, isa: str, data: st.DataObject) -> None:
    draw = data.draw
    images, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 130]))
    height, width = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    count = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((images, channels, height, width)).astype(np.float32)
    align(form, mode, ratio, isa).check(
        x=x,
        rois=regions(rng, count, 2.5 * max(height, width)),
        images=rng.integers(0, images, count),
    )


def test_regions_far_larger_than_the_image_take_no_time_for_what_is_outside() -> None:
    x = np.ones((1, 1, 4, 4), np.float32)
    rois = np.float32([[-1e6, -1e6, 1e6, 1e6], [0, 0, np.inf, 8], [np.nan, 0, 4, 4]])
    model = align("half_pixel", "avg", 0, ISAS[-1])
    (found,) = model.run(x=x, rois=rois, images=np.zeros(3, np.int64))
    assert found.shape == (3, 1, 3, 2)
    assert np.all(np.abs(np.nan_to_num(found)) <= 1)


def test_an_image_that_is_not_there_is_refused() -> None:
    arrays = {"x": np.zeros((1, 1, 2, 2), np.float32), "rois": np.zeros((1, 4), np.float32)}
    with pytest.raises(RunError, match="index lies outside"):
        align("old", "avg", 2, ISAS[-1]).run(**arrays, images=np.array([1]))

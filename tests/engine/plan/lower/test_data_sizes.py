"""Operators with an unknown number of results against onnxruntime: sizes, types and limits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.harness import ISAS
from tests.engine.single import Array, Single

FEW = settings(max_examples=12, deadline=None)


@cache
def non_zero(dtype: str, rank: int, isa: str) -> Single:
    return Single("NonZero", {"x": np.zeros((1,) * rank, dtype)}, isa=isa, threads=1)


@pytest.mark.parametrize("isa", ISAS)
@FEW
@given(data=st.data())
def test_non_zero(isa: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["bool", "uint8", "int32", "int64", "float32"]))
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    place = data.draw(st.integers(0, len(shape) - 1))
    shape[place] = data.draw(st.sampled_from([1, 63, 130, 5000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = (rng.random(shape) < data.draw(st.sampled_from([0, 0.02, 0.5, 1]))) * 3
    non_zero(dtype, len(shape), isa).check(x=x.astype(dtype))


def test_what_counts_as_zero() -> None:
    for dtype in ("float16", "float32", "float64"):
        x = np.array([0.0, -0.0, np.nan, np.inf, 1e-7, -1], dtype)
        model = Single("NonZero", {"x": x[:1]})
        assert model.native
        np.testing.assert_array_equal(model.run(x=x)[0], [np.flatnonzero(x)])


@pytest.mark.parametrize("axis", [None, 0, -1])
@FEW
@given(data=st.data())
def test_compress(axis: int | None, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    length = shape[axis] if axis is not None else shape[0] * shape[1]
    taken = data.draw(st.lists(st.booleans(), min_size=1, max_size=length))
    x = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    options = {} if axis is None else {"axis": axis}
    compress(**options).check(x=x, c=np.array(taken))


@cache
def compress(**options: int) -> Single:
    arrays = {"x": np.zeros((1, 1), np.float32), "c": np.zeros(1, np.bool_)}
    return Single("Compress", arrays, **options)


@cache
def unique(dtype: str, ordered: int) -> Single:
    outputs = ("y", "first", "inverse", "counts")
    return Single("Unique", {"x": np.zeros((1, 1), dtype)}, sorted=ordered, outputs=outputs)


@pytest.mark.parametrize("ordered", [0, 1])
@FEW
@given(data=st.data())
def test_unique(ordered: int, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64", "int8", "int64"]))
    shape = data.draw(st.tuples(st.integers(0, 40), st.integers(1, 40)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = data.draw(st.sampled_from([1, 9, 2**40 if dtype == "int64" else 11]))
    x = (rng.integers(-9, 9, shape) * scale).astype(dtype)
    unique(dtype, ordered).check(x=x)


def test_unsigned_elements_beyond_the_signed_range() -> None:
    x = np.array([3, 2**64 - 1, 2**63, 3, 0], np.uint64)
    model = Single("Unique", {"x": x[:1]}, outputs=("y", "first", "inverse", "counts"))
    assert model.native
    for found, wanted in zip(model.run(x=x), np.unique(x, True, True, True), strict=True):
        np.testing.assert_array_equal(found, wanted)


LIMITS = {"most": np.zeros(1, np.int64)} | {n: np.zeros(1, np.float32) for n in ("ratio", "floor")}


@cache
def suppression(isa: str, center: int, limits: int = 3) -> Single:
    given_limits = dict(list(LIMITS.items())[:limits])
    arrays = {
        "boxes": np.zeros((1, 1, 4), np.float32),
        "scores": np.zeros((1, 1, 1), np.float32),
        **given_limits,
    }
    options: dict[str, Any] = {"fixed": list(given_limits), "center_point_box": center}
    return Single("NonMaxSuppression", arrays, isa=isa, **options)


def drawn_boxes(rng: np.random.Generator, images: int, count: int) -> Array:
    """Corners or centres on a coarse grid, so that boxes touch, coincide and are empty."""
    return (rng.integers(0, 9, (images, count, 4)) / 4).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("center", [0, 1])
@FEW
@given(data=st.data())
def test_suppression(isa: str, center: int, data: st.DataObject) -> None:
    draw = data.draw
    images, classes = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    count = draw(st.sampled_from([0, 1, 7, 40, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    scores = rng.integers(-8, 9, (images, classes, count)) / 8
    limits = {
        "most": np.array([draw(st.sampled_from([-1, 0, 1, 5, 10**9]))]),
        "ratio": np.float32([draw(st.sampled_from([0, 0.25, 0.5, 1]))]),
        "floor": np.float32([draw(st.sampled_from([-2, 0, 0.5, 2]))]),
    }
    suppression(isa, center).check(
        boxes=drawn_boxes(rng, images, count), scores=scores.astype(np.float32), **limits
    )


@pytest.mark.parametrize("limits", [0, 1, 2])
def test_omitted_limits(limits: int) -> None:
    rng = np.random.default_rng(limits)
    given_limits = {"most": np.array([6]), "ratio": np.float32([0.5])}
    arrays = dict(list(given_limits.items())[:limits])
    scores = rng.standard_normal((2, 2, 50)).astype(np.float32)
    suppression(ISAS[-1], 0, limits).check(boxes=drawn_boxes(rng, 2, 50), scores=scores, **arrays)


@pytest.mark.parametrize("most", [2, 40])
def test_few_of_many_candidates(most: int) -> None:
    """The candidates that are sorted first do not suffice: nearly all boxes coincide."""
    rng = np.random.default_rng(0)
    boxes = np.tile(np.float32([0, 0, 1, 1]), (1, 3000, 1))
    boxes[:, ::100] += np.arange(30, dtype=np.float32)[:, None] * 3
    scores = rng.random((1, 1, 3000)).astype(np.float32)
    limits = {"most": np.array([most]), "ratio": np.float32([0.5]), "floor": np.float32([0.1])}
    suppression(ISAS[-1], 0).check(boxes=boxes, scores=scores, **limits)


def test_boxes_and_scores_that_differ_in_number_are_refused() -> None:
    from engine import InputError

    arrays = {"boxes": np.zeros((1, 3, 4), np.float32), "scores": np.zeros((1, 1, 4), np.float32)}
    with pytest.raises(InputError, match="numbers of boxes and scores"):
        suppression(ISAS[-1], 0).run(**arrays, **LIMITS)

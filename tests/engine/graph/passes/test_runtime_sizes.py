"""Operators whose sizes only a run tells: natively, and equal to onnxruntime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import engine
from engine import InputError
from tests.engine.models import serialise, tensor
from tests.engine.single import Array, Single

FEW = settings(max_examples=12, deadline=None)
RNG = np.random.default_rng(0)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@cache
def single(op: str, rank: int, lengths: tuple[int, ...], opset: int = 21, **options: Any) -> Single:
    """A node over x and vectors of the given lengths (-1 for a scalar), all known to a run only."""
    inputs = {"x": np.zeros((2,) * rank, np.float32)}
    for place, size in enumerate(lengths):
        inputs[f"p{place}"] = np.zeros(() if size < 0 else (size,), np.int64)
    fixed = [name for name in inputs if name != "x"]
    return Single(op, inputs, fixed=fixed, opset=opset, **options)


SHAPES = st.tuples(*[st.integers(1, 5)] * 3)


@FEW
@given(shape=SHAPES, data=st.data())
def test_slice(shape: tuple[int, ...], data: st.DataObject) -> None:
    near, far = st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)])
    axes = data.draw(st.permutations([0, -1]))
    # Going back, onnxruntime and numpy differ on starts before the first element and on ends
    # beyond the last.
    steps = data.draw(st.sampled_from([(1, 2), (2, 1), (-1, -3), (-2, 1)]))
    back = min(steps) < 0
    bounds = (st.integers(-1, 9), st.integers(-9, 0)) if back else (near | far, near | far)
    arrays = {f"p{i}": ints(*data.draw(st.tuples(b, b))) for i, b in enumerate(bounds)}
    model = single("Slice", 3, (2, 2, 2, 2))
    model.check(x=normal(*shape), **arrays, p2=ints(*axes), p3=ints(*steps))


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceSumSquare", "ReduceLogSumExp"])
@pytest.mark.parametrize("keepdims", [0, 1])
@settings(max_examples=6, deadline=None)
@given(shape=SHAPES, axes=st.sampled_from([(0, 2), (1, -3), (-1, -2)]))
def test_reduction(op: str, keepdims: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    single(op, 3, (2,), keepdims=keepdims).check(x=normal(*shape), p0=ints(*axes))


@FEW
@given(shape=SHAPES, factor=st.integers(0, 2))
def test_reshape(shape: tuple[int, ...], factor: int) -> None:
    wanted = [(0, -1), (-1, shape[2]), (shape[0] * shape[1], shape[2])][factor]
    single("Reshape", 3, (2,)).check(x=normal(*shape), p0=ints(*wanted))


@FEW
@given(shape=SHAPES, before=st.integers(-2, 3), after=st.integers(0, 2))
@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_pad(mode: str, shape: tuple[int, ...], before: int, after: int) -> None:
    pads = ints(0, max(before, 1 - shape[1]), 1, 0, after, 0)
    single("Pad", 3, (6,), mode=mode).check(x=normal(*shape), p0=pads)


def test_pad_by_a_value_of_the_run() -> None:
    arrays = {"x": normal(2, 3), "pads": ints(1, 0, 0, 2), "value": np.array(-2.5, np.float32)}
    model = Single("Pad", arrays, fixed=("pads", "value"))
    model.check(**arrays)
    model.check(**arrays | {"value": np.array(7, np.float32)})


def test_counts() -> None:
    single("Expand", 2, (3,)).check(x=normal(3, 1), p0=ints(2, 1, 4))
    single("Tile", 2, (2,)).check(x=normal(3, 2), p0=ints(2, 3))
    single("Unsqueeze", 2, (2,)).check(x=normal(3, 2), p0=ints(-1, 0))
    single("Squeeze", 3, (1,)).check(x=normal(3, 1, 2), p0=ints(-2))
    single("CumSum", 3, (-1,)).check(x=normal(3, 4, 2), p0=np.array(-2))
    outputs = ("y", "i")
    single("TopK", 2, (1,), outputs=outputs).check(x=normal(3, 8), p0=ints(5))
    single("Split", 2, (2,), outputs=outputs, axis=1).check(x=normal(3, 8), p0=ints(5, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_range(dtype: Any) -> None:
    arrays = {name: np.array(0, dtype) for name in ("start", "limit", "delta")}
    model = Single("Range", arrays)
    for start, limit, delta in ((0, 5, 1), (7, -3, -2), (1, 1, 3)):
        values = zip(arrays, (start, limit, delta), strict=True)
        model.check(**{name: np.array(value, dtype) for name, value in values})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str) -> None:
    arrays = {"x": normal(1, 2, 5, 4), "scales": np.ones(4, np.float32)}
    model = Single("Resize", arrays, order=("x", "", "scales"), fixed=("scales",), mode=mode)
    for scales in ((1, 1, 0.6, 1.7), (1, 1, 2, 3)):
        model.check(x=normal(1, 2, 5, 4), scales=np.array(scales, np.float32))


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_to_sizes(policy: str) -> None:
    arrays = {"x": normal(1, 2, 5, 4), "sizes": ints(8, 9)}
    settings_ = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
    model = Single("Resize", arrays, order=("x", "", "", "sizes"), fixed=("sizes",), **settings_)
    for sizes in ((8, 9), (3, 3), (10, 4)):
        model.check(x=normal(1, 2, 5, 4), sizes=ints(*sizes))


def test_computed_sizes_end_a_segment_and_nothing_falls_back() -> None:
    """The shape is the largest element of x, which a kernel computes first."""
    nodes = [
        helper.make_node("ReduceMax", ["i"], ["count"], keepdims=1),
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Expand", ["square", "count"], ["wide"]),
        helper.make_node("Add", ["wide", "z"], ["y"]),
    ]
    inputs = [tensor("i", ["I"], TensorProto.INT64), tensor("x", [1]), tensor("z", ["Z"])]
    session = engine.load(serialise(nodes, inputs, ["y"]), threads=1)
    assert session.stats()["fallback_segments"] == 0
    assert session.stats()["native_segments"] == 2
    x, i = np.array([3], np.float32), ints(2, 4, 1)
    found = session.run({"i": i, "x": x, "z": np.arange(4, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, [9, 10, 11, 12])
    with pytest.raises(InputError, match="do not broadcast"):
        session.run({"i": i, "x": x, "z": np.zeros(3, np.float32)})


def test_numbers_that_are_no_sizes_are_refused() -> None:
    model = single("Reshape", 3, (2,))
    with pytest.raises(InputError, match="do not fill"):
        model.run(x=normal(2, 2, 2), p0=ints(3, 3))
    with pytest.raises(InputError, match="no size"):
        single("Tile", 2, (2,)).run(x=normal(2, 2), p0=ints(-1, 1))
    p = {"p0": ints(0, 0), "p1": ints(1, 1), "p2": ints(0, 1), "p3": ints(0, 1)}
    with pytest.raises(InputError, match="a step is 0"):
        single("Slice", 3, (2, 2, 2, 2)).run(x=normal(2, 2, 2), **p)
    with pytest.raises(InputError, match="outside"):
        single("CumSum", 3, (-1,)).run(x=normal(3, 4, 2), p0=np.array(3))


def test_counts_share_their_type_with_inputs_that_are_none() -> None:
    """MelWeightMatrix takes sizes and the sampling rate in one type; none may change alone."""
    arrays = {
        "bins": np.array(8, np.int32),
        "window": np.array(16, np.int32),
        "rate": np.array(8192, np.int32),
        "low": np.array(0, np.float32),
        "high": np.array(4096, np.float32),
    }
    (found,) = Single("MelWeightMatrix", arrays, fixed=tuple(arrays), opset=17).run(**arrays)
    assert found.shape == (9, 8)

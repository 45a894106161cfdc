from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import RunError
from engine.codegen.abi import Status
from tests.engine.harness import ISAS
from tests.engine.lowered import check_node, lower_node
from tests.engine.plan.lower.test_gather import drawn_indices
from tests.engine.plan.lower.test_views import ints, numbered
from tests.engine.single import Single

ISA = ISAS[-1]
REDUCTIONS = ["none", "add", "mul", "max", "min"]
DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_scatter_elements(isa: str, reduction: str, data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    picked = [data.draw(st.integers(0, n)) for n in shape]
    indices = drawn_indices(data, picked, shape[axis])
    updates = (numbered(picked) % 7 - 3).astype(dtype)
    x = numbered(shape, dtype)
    expected = x.copy()
    combine: Any = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}.get(
        reduction, lambda old, new: new
    )
    for at in np.ndindex(*picked):
        place = list(at)
        place[axis] = int(indices[at])
        with np.errstate(all="ignore"):
            expected[tuple(place)] = combine(expected[tuple(place)], updates[at])
    results, status = lower_node(
        isa,
        "ScatterElements",
        [x, indices, updates],
        [expected],
        pieces=3,
        axis=axis,
        reduction=reduction,
    )
    assert status == 0
    np.testing.assert_array_equal(results[0], expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_scatter_nd(isa: str, reduction: str, data: st.DataObject) -> None:
    dtype = data.draw(DTYPES)
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    depth = data.draw(st.integers(1, len(shape)))
    picked = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    columns = [drawn_indices(data, picked, n).astype(np.int64) for n in shape[:depth]]
    updates = (numbered(picked + shape[depth:]) % 5 - 2).astype(dtype)
    arrays: list[Any] = [numbered(shape, dtype), np.stack(columns, -1), updates]
    check_node(isa, "ScatterND", arrays, pieces=2, reduction=reduction)


def test_long_rows_are_split() -> None:
    x = np.zeros((3, 2500), np.float32)
    updates = np.random.default_rng(0).random((5, 2500), np.float32)
    indices = np.array([[0], [2], [0], [-1], [0]])
    for reduction in ("none", "add"):
        check_node(ISA, "ScatterND", [x, indices, updates], pieces=3, reduction=reduction)


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_index_out_of_range(op: str) -> None:
    x, updates = numbered((4,)), numbered((2,))
    indices = np.array([[1], [4]]) if op == "ScatterND" else np.array([1, 4])
    _, status = lower_node(ISA, op, [x, indices, updates], [x])
    assert status == Status.INDEX_OUT_OF_RANGE


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_one_hot(isa: str, dtype: Any, axis: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    depth = data.draw(st.integers(1, 9))
    indices = drawn_indices(data, shape, depth + 2)
    indices = indices.astype(data.draw(st.sampled_from([np.int32, np.int64, np.float32])))
    depth_value, values = ints(depth), np.array([2, 5], dtype)
    # The reference wraps indices of any size; the specification sets nothing for them.
    expected = _one_hot(indices, depth, values, axis)
    results, _ = lower_node(
        isa, "OneHot", [indices, depth_value, values], [expected], known=(1,), axis=axis
    )
    np.testing.assert_array_equal(results[0], expected)


def _one_hot(indices: Any, depth: int, values: Any, axis: int) -> Any:
    wrapped = np.where(indices < 0, indices + depth, indices)
    on = np.arange(depth) == wrapped[..., None]
    return np.moveaxis(np.where(on, values[1], values[0]), -1, axis)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("rank", [3, 4])
def test_cache_of_sequences(mode: str, rank: int) -> None:
    rng = np.random.default_rng(rank)
    lead, starts = (3, 2)[: rank - 2], np.array([0, 5, 2])
    past = rng.standard_normal((*lead, 8, 4)).astype(np.float32)
    update = rng.standard_normal((*lead, 3, 4)).astype(np.float32)
    if mode == "circular":
        starts[1] = 7
    arrays = {"past": past, "update": update, "starts": starts}
    model = Single("TensorScatter", arrays, opset=24, mode=mode)
    model.check(**arrays)
    if mode == "linear":
        with pytest.raises(RunError, match="index lies outside"):
            model.run(**arrays | {"starts": starts + 1})

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.abi import Status
from tests.engine.harness import ISAS
from tests.engine.lowered import check_node, lower_node
from tests.engine.plan.lower.test_views import ints

DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8])


def drawn(data: st.DataObject, shape: Any) -> Any:
    """Few different values, so that ties occur; large unsigned ones too."""
    dtype = data.draw(DTYPES)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    return (rng.integers(-6, 6, shape) * 20).astype(dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_arg(isa: str, op: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    place = data.draw(st.integers(0, len(shape) - 1))
    shape[place] = data.draw(st.integers(1, 150))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check_node(
        isa,
        op,
        [drawn(data, shape)],
        pieces=data.draw(st.integers(1, 3)),
        axis=axis,
        keepdims=data.draw(st.integers(0, 1)),
        select_last_index=data.draw(st.integers(0, 1)),
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("largest", [0, 1])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_topk(isa: str, largest: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    shape[axis] = data.draw(st.integers(1, 200))
    kept = data.draw(st.integers(0, shape[axis]))
    x = drawn(data, shape)
    order = np.argsort(-x.astype(np.float64) if largest else x, axis=axis, kind="stable")
    indices = order.take(range(kept), axis)
    expected: list[Any] = [np.take_along_axis(x, indices, axis), indices]
    results, status = lower_node(
        isa, "TopK", [x, ints(kept)], expected, known=(1,), pieces=2, axis=axis, largest=largest
    )
    assert status == 0
    np.testing.assert_array_equal(results[0], expected[0])
    np.testing.assert_array_equal(results[1], expected[1])


def test_more_than_there_are() -> None:
    x = np.zeros(3, np.float32)
    wanted: list[Any] = [np.zeros(5, np.float32), np.zeros(5, np.int64)]
    _, status = lower_node(ISAS[-1], "TopK", [x, ints(5)], wanted, known=(1,))
    assert status == Status.INDEX_OUT_OF_RANGE


def test_extreme_of_nothing() -> None:
    x = np.zeros((2, 0), np.float32)
    _, status = lower_node(ISAS[-1], "ArgMax", [x], [np.zeros((2, 1), np.int64)], axis=1)
    assert status == Status.INDEX_OUT_OF_RANGE

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.abi import Status
from tests.engine.harness import ISAS
from tests.engine.lowered import check_node, lower_node
from tests.engine.plan.lower.test_views import ints, numbered
from tests.engine.single import Single


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_cumsum(isa: str, dtype: Any, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    shape[-1] = data.draw(st.integers(0, 40))
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = (np.random.default_rng(0).random(shape) * 10).astype(dtype)
    exclusive, reverse = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    # The specification by hand: the reference package leaves garbage in exclusive empty sums.
    turned = np.flip(x, axis) if reverse else x
    expected = np.cumsum(turned, axis, dtype=dtype)
    if exclusive:
        expected = expected - turned
    expected = np.flip(expected, axis) if reverse else expected
    results, status = lower_node(
        isa,
        "CumSum",
        [x, np.array(axis)],
        [expected],
        known=(1,),
        pieces=data.draw(st.integers(1, 3)),
        exclusive=exclusive,
        reverse=reverse,
    )
    assert status == 0
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("tail", [(), (5, 7)])
def test_reverse_sequence(isa: str, time: int, tail: tuple[int, ...]) -> None:
    x = numbered((4, 4, *tail))
    check_node(
        isa,
        "ReverseSequence",
        [x, ints(0, 1, 3, 4)],
        pieces=3,
        time_axis=time,
        batch_axis=1 - time,
    )


@pytest.mark.parametrize("bad", [-1, 5])
def test_sequences_longer_than_the_axis(bad: int) -> None:
    x = numbered((4, 2))
    _, status = lower_node(ISAS[-1], "ReverseSequence", [x, ints(1, bad)], [x])
    assert status == Status.INDEX_OUT_OF_RANGE


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("shape", [(2, 3, 40), (2, 7, 2), (2, 0, 3)])
@pytest.mark.parametrize("diagonal", [-9, -1, 2])
@pytest.mark.parametrize("known", [(), (1,)])
def test_trilu(
    isa: str,
    upper: int,
    dtype: Any,
    shape: tuple[int, ...],
    diagonal: int,
    known: tuple[int, ...],
) -> None:
    x = numbered(shape, dtype) + 1
    expected = (np.triu if upper else np.tril)(x, diagonal)
    results, _ = lower_node(
        isa, "Trilu", [x, np.array(diagonal)], [expected], known=known, pieces=2, upper=upper
    )
    np.testing.assert_array_equal(results[0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.float16, np.int64])
@pytest.mark.parametrize("diagonal", [-1, 0, 3, 90])
def test_eye(dtype: Any, diagonal: int) -> None:
    x = np.zeros((4, 33), dtype)
    expected = np.eye(4, 33, diagonal, dtype=dtype)
    results, _ = lower_node(ISAS[-1], "EyeLike", [x], [expected], pieces=2, k=diagonal)
    np.testing.assert_array_equal(results[0], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_determinant(dtype: str) -> None:
    rng = np.random.default_rng(0)
    model = Single("Det", {"x": np.zeros((1, 1, 1), dtype)}, opset=22)
    assert model.native
    for count, size in [(0, 3), (3, 1), (2, 5), (4, 20), (1, 70)]:
        x = (rng.standard_normal((count, size, size)) / np.sqrt(size)).astype(dtype)
        (found,) = model.run(x=x)
        np.testing.assert_allclose(found, np.linalg.det(x), rtol=1e-3, atol=1e-6)
    singular = np.ones((1, 4, 4), dtype)
    np.testing.assert_array_equal(model.run(x=singular)[0], [0])

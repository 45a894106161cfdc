import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.models import MODELS
from benchmarks.results import VisitResult
from benchmarks.shapes import (
    extra_seconds,
    first_over_later,
    random_shapes,
    stream_seconds,
    visit_orders,
)


@pytest.mark.parametrize("name", MODELS)
def test_random_shapes_are_different_and_in_range(name):
    model = MODELS[name]
    shapes = random_shapes(model, 40)
    assert len({tuple(dims.items()) for dims in shapes}) == len(shapes)
    assert len(shapes) == (4 if name == "vgg16" else 40)
    for dims in shapes:
        assert set(dims) == set(model.ranges)
        assert all(low <= dims[key] <= high for key, (low, high) in model.ranges.items())
    assert random_shapes(model, 40) == shapes


@given(shapes=st.integers(1, 50), passes=st.integers(0, 6))
def test_every_pass_visits_every_shape_and_never_one_twice_running(shapes, passes):
    orders = visit_orders(shapes, passes)
    assert len(orders) == passes + 1
    assert orders[0] == list(range(shapes))
    assert all(sorted(order) == orders[0] for order in orders)
    visits = list(itertools.chain.from_iterable(orders))
    if shapes > 1:
        assert all(first != second for first, second in itertools.pairwise(visits))


def test_first_visits_against_the_median_of_later_ones():
    result = VisitResult(
        model="Small",
        engine="packhorse",
        shapes=[{"batch": 1}, {"batch": 2}],
        first=[2.0, 6.0],
        later=[[1.0, 1.0, 9.0], [4.0, 4.0, 4.0]],
    )
    assert first_over_later(result) == [2.0, 1.5]
    assert extra_seconds(result) == [1.0, 2.0]
    assert stream_seconds(result) == 8.0

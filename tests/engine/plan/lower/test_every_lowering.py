"""Promises that hold for every native operator, walked by the registry of lowerings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.plan import lowering
from tests.engine.equality import assert_equal
from tests.engine.plan.lower.example import Sizes
from tests.engine.plan.lower.examples import EXAMPLES, UNREACHED
from tests.engine.plan.lower.promises import (
    FORMS,
    Subject,
    check_form,
    check_rows,
    check_sequence,
)

A, B, C = {"n": 3, "w": 7}, {"n": 1, "w": 16}, {"n": 5, "w": 1}
LARGE = {"n": 37, "w": 61}
"""Enough work that threads share it."""


def test_every_lowering_has_an_example() -> None:
    missing = lowering.lowerings().keys() - EXAMPLES.keys() - UNREACHED.keys()
    assert not missing, f"add a model for {sorted(missing)} to tests/engine/plan/lower/examples.py"
    gone = (EXAMPLES.keys() | UNREACHED.keys()) - lowering.lowerings().keys()
    assert not gone, f"examples of lowerings that do not exist: {sorted(gone)}"


@pytest.fixture(params=sorted(EXAMPLES), scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    made = Subject(request.param, EXAMPLES[request.param])
    yield made
    made.close()


def test_shapes_in_any_order_equal_the_oracle(subject: Subject) -> None:
    check_sequence(subject, [("A", A), ("B", B), ("A", A), ("C", C)])


@pytest.mark.parametrize("sizes", [C | {"w": 9}, LARGE], ids=["small", "large"])
def test_rows_do_not_depend_on_their_batch(subject: Subject, sizes: Sizes) -> None:
    check_rows(subject, sizes)


@pytest.mark.parametrize("form", FORMS)
def test_arrays_may_lie_anyhow(subject: Subject, form: Any) -> None:
    check_form(subject, A, form)


def test_empty_axes_are_taken(subject: Subject) -> None:
    for axis in subject.example.zero:
        feeds = subject.example.feeds(A | {axis: 0})
        for got, wanted in zip(subject.run(feeds), subject.expected(feeds), strict=True):
            assert_equal(got, wanted, f"{axis} = 0")

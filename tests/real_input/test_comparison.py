"""The equality rule itself: what it lets pass and what it does not."""

import numpy as np
import pytest

from examples.real_input.comparison import Tally, compared, used_allowance

REFERENCE = np.array([[1.0, -50.0], [0.0, 3.0]], np.float32)


def test_same_tensor_uses_nothing() -> None:
    assert used_allowance(REFERENCE, REFERENCE) == 0


@pytest.mark.parametrize(("offset", "equal"), [(0.004, True), (0.0051, False)])
def test_allowance_is_relative_to_the_largest(offset: float, equal: bool) -> None:
    found = REFERENCE.copy()
    found[1, 0] += offset
    assert (used_allowance(found, REFERENCE) <= 1) == equal


@pytest.mark.parametrize(("offset", "equal"), [(9e-6, True), (1.1e-5, False)])
def test_allowance_of_zeros_is_absolute(offset: float, equal: bool) -> None:
    zeros = np.zeros(3, np.float32)
    assert (used_allowance(zeros + np.float32(offset), zeros) <= 1) == equal


@pytest.mark.parametrize(
    "found",
    [
        REFERENCE[:1],
        REFERENCE.astype(np.float64),
        np.where(REFERENCE == 3, np.nan, REFERENCE),
        np.where(REFERENCE == 3, np.inf, REFERENCE),
    ],
)
def test_other_shapes_types_and_numbers_that_are_none(found: np.ndarray) -> None:
    assert used_allowance(found, REFERENCE) == float("inf")


def test_nan_equals_nan_only() -> None:
    reference = np.array([np.nan, np.inf, 1.0], np.float32)
    assert used_allowance(reference.copy(), reference) == 0
    assert used_allowance(np.array([0, np.inf, 1], np.float32), reference) == float("inf")
    assert used_allowance(np.array([np.nan, -np.inf, 1], np.float32), reference) == float("inf")


@pytest.mark.parametrize("values", [[1, 2], [True, False], ["a", "b"]])
def test_everything_else_is_exact(values: list[object]) -> None:
    kind = object if isinstance(values[0], str) else None
    reference = np.array(values, kind)
    assert used_allowance(reference.copy(), reference) == 0
    assert used_allowance(reference[::-1].copy(), reference) == float("inf")


def test_tally_keeps_the_worst_and_needs_a_run() -> None:
    tally = Tally()
    assert not tally.equal
    run = compared(lambda x: {"y": x["x"] * 2}, lambda x: {"y": x["x"] + x["x"]}, tally)
    assert run({"x": REFERENCE})["y"][0, 0] == 2
    assert tally.equal
    wrong = compared(lambda x: {"y": x["x"] * 3}, lambda x: {"y": x["x"] + x["x"]}, tally)
    wrong({"x": REFERENCE[:1]})
    assert not tally.equal
    assert (tally.runs, len(tally.shapes)) == (2, 2)
    missing = compared(lambda x: {}, lambda x: {"y": x["x"]}, Tally())
    assert missing({"x": REFERENCE}) == {}

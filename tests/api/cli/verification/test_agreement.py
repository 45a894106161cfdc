"""What counts as equal, and what is said where it is not."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from api.cli.verification.agreement import TOLERANCES, Difference, compare

FLOATS = np.array([100.0, -1.0], np.float32)


def difference(wanted: Any, found: Any) -> Difference:
    return compare("y", wanted, found, TOLERANCES["fp32"])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (FLOATS, FLOATS + np.float32(0.009)),
        (FLOATS[:0], FLOATS[:0]),
        (np.array([np.inf, np.nan, 1]), np.array([np.inf, np.nan, 1])),
        (np.array([1, 2]), np.array([1, 2])),
        (np.array(["a", "b"], object), np.array(["a", "b"], object)),
        (np.array([100], np.float16), np.array([100.125], np.float16)),
        (np.array([1], ml_dtypes.bfloat16), np.array([1.0078125], ml_dtypes.bfloat16)),
        ([FLOATS, FLOATS[:1]], [FLOATS, FLOATS[:1]]),
        (None, None),
    ],
)
def test_equal(wanted: Any, found: Any) -> None:
    assert difference(wanted, found).equal


@pytest.mark.parametrize(
    ("wanted", "found", "text"),
    [
        (FLOATS, FLOATS + np.float32(0.011), "differs by up to 0.011, 0.01 are allowed"),
        (FLOATS, FLOATS[:1], "has shape [1], not [2]"),
        (FLOATS, FLOATS.astype(np.float64), "has type float64, not float32"),
        (np.array([np.nan, 1.0]), np.array([0.0, 1.0]), "1 elements are infinite or not numbers"),
        (np.array([np.inf]), np.array([-np.inf]), "1 elements are infinite or not numbers"),
        (np.array([1, 2]), np.array([1, 3]), "1 of 2 elements differ"),
        (np.array(["a"], object), np.array(["b"], object), "1 of 1 elements differ"),
        (np.array([100], np.float16), np.array([101], np.float16), "differs by up to 1"),
        ([FLOATS], [FLOATS, FLOATS], "is a sequence of 2 elements, expected 1"),
        ([FLOATS], [FLOATS * 2], "differs by up to 100"),
        (FLOATS, None, "is NoneType, expected ndarray"),
    ],
)
def test_different(wanted: Any, found: Any, text: str) -> None:
    result = difference(wanted, found)
    assert not result.equal
    assert text in result.describe()


def test_the_error_is_measured() -> None:
    result = difference(FLOATS, FLOATS + np.array([0.25, 0.0], np.float32))
    assert (result.max_error, result.mean_error, result.largest) == (0.25, 0.125, 100.0)
    assert result.allowed == pytest.approx(0.01001)

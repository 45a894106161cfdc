"""Equality to a reference, as the project defines it."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def assert_equal(actual: Array, expected: Array, what: str = "") -> None:
    """Floats within 1e-4 of the largest reference value plus 1e-5; all else exact.

    Of 16-bit floats the largest value may be off by the two numbers next to it.
    """
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    if expected.dtype.kind != "f" or expected.size == 0:
        np.testing.assert_array_equal(actual, expected, what)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(actual), finite, what)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], what)
    if finite.any():
        difference = np.abs(actual[finite].astype(np.float64) - expected[finite])
        share = max(1e-4, 2 * float(np.finfo(expected.dtype).eps))
        bound = share * float(np.abs(expected[finite]).max()) + 1e-5
        assert difference.max() <= bound, f"{what}: {difference.max()} > {bound}"

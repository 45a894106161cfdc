"""When an output counts as equal to a reference, and by how much it differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """|difference| may be up to `relative` times the largest |reference|, plus `absolute`."""

    relative: float
    absolute: float

    def allowed(self, largest: float, dtype: np.dtype[Any]) -> float:
        """What elements of a tensor may differ by, in its units.

        A narrow type is granted two steps of its own resolution: implementations that round once
        and ones that round after every operation differ by as much.
        """
        resolution = 2 * float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
        return max(self.relative, resolution) * largest + self.absolute


TOLERANCES: Final = {"fp32": Tolerance(1e-4, 1e-5)}
"""By the precision that a model runs in."""


@dataclass(frozen=True)
class Difference:
    """How one output differs from its reference.

    `max_error` and `mean_error` are absolute differences over the elements that are finite in both,
    `largest` is the largest finite |reference|, `allowed` what an element may differ by. `problem`
    names a difference that no number expresses: shape, type, special values, exact types.
    """

    output: str
    dtype: str
    shape: tuple[int, ...]
    max_error: float = 0.0
    mean_error: float = 0.0
    largest: float = 0.0
    allowed: float = 0.0
    problem: str = ""

    @property
    def equal(self) -> bool:
        """Whether the output counts as equal."""
        return not self.problem and self.max_error <= self.allowed

    def describe(self) -> str:
        """The difference in a few words."""
        if self.problem:
            return self.problem
        return f"differs by up to {self.max_error:.3g}, {self.allowed:.3g} are allowed"


def compare(name: str, wanted: Any, found: Any, tolerance: Tolerance) -> Difference:
    """Difference of one output, a tensor, a sequence (list) or None, from its reference.

    Of a sequence, the worst element's. Floats may differ by the tolerance; all else is exact.
    """
    if isinstance(wanted, list | tuple):
        return _compare_sequences(name, wanted, found, tolerance)
    if wanted is None or found is None or not hasattr(found, "dtype"):
        same = wanted is None and found is None
        kinds = f"is {type(found).__name__}, expected {type(wanted).__name__}"
        return Difference(name, "", (), problem="" if same else kinds)
    wanted, found = np.asarray(wanted), np.asarray(found)
    dtype, shape = str(found.dtype), found.shape
    if found.shape != wanted.shape:
        expected = list(wanted.shape)
        return Difference(name, dtype, shape, problem=f"has shape {list(shape)}, not {expected}")
    if found.dtype != wanted.dtype:
        return Difference(name, dtype, shape, problem=f"has type {dtype}, not {wanted.dtype}")
    if not _is_float(wanted.dtype):
        return Difference(name, dtype, shape, problem=_exact(wanted, found))
    return _compare_floats(name, wanted, found, tolerance)


def _compare_floats(name: str, wanted: Array, found: Array, tolerance: Tolerance) -> Difference:
    real = np.promote_types(wanted.dtype, np.float64)  # complex stays complex
    expected, got = wanted.astype(real), found.astype(real)
    finite = np.isfinite(expected) & np.isfinite(got)
    special = ~finite
    problem = ""
    if not np.array_equal(expected[special], got[special], equal_nan=True):
        differing = expected[special] != got[special]
        both_nan = np.isnan(expected[special]) & np.isnan(got[special])
        count = np.count_nonzero(differing & ~both_nan)
        problem = f"{count} elements are infinite or not numbers on one side only"
    errors = np.abs(expected[finite] - got[finite])
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    return Difference(
        name,
        str(wanted.dtype),
        wanted.shape,
        float(errors.max(initial=0.0)),
        float(errors.mean()) if errors.size else 0.0,
        largest,
        tolerance.allowed(largest, wanted.dtype),
        problem,
    )


def _compare_sequences(name: str, wanted: Any, found: Any, tolerance: Tolerance) -> Difference:
    if not isinstance(found, list | tuple) or len(found) != len(wanted):
        count = len(found) if isinstance(found, list | tuple) else "no"
        problem = f"is a sequence of {count} elements, expected {len(wanted)}"
        return Difference(name, "sequence", (), problem=problem)
    worst = Difference(name, "sequence", (len(wanted),))
    for index, (first, second) in enumerate(zip(wanted, found, strict=True)):
        difference = compare(f"{name}[{index}]", first, second, tolerance)
        if _excess(difference) > _excess(worst):
            worst = difference
    return worst


def _excess(difference: Difference) -> float:
    """Multiple of what is allowed; infinite for a problem."""
    if difference.problem:
        return float("inf")
    return difference.max_error / difference.allowed if difference.allowed else 0.0


def _is_float(dtype: np.dtype[Any]) -> bool:
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return True


def _exact(wanted: Array, found: Array) -> str:
    count = int(np.count_nonzero(wanted != found))
    return f"{count} of {wanted.size} elements differ" if count else ""

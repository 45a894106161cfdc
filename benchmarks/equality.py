"""When two engines' outputs count as equal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE = 1e-4
ABSOLUTE = 1e-5

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from the reference.

    `max_error` is the largest absolute difference; `tolerance_used` the largest difference over
    what its tensor may differ by, so that up to 1 means equal; `problem` names a structural
    difference.
    """

    max_error: float
    tolerance_used: float
    problem: str | None = None

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal to the reference."""
        return self.problem is None and self.tolerance_used <= 1.0


def compare(reference: Outputs, outputs: Outputs) -> Agreement:
    """Apply |difference| <= 1e-4 * max|reference| + 1e-5 to each float tensor; others exactly."""
    worst, used = 0.0, 0.0
    for name, wanted in reference.items():
        got = outputs.get(name)
        problem = f"output {name!r} is missing" if got is None else _structure(name, wanted, got)
        if got is None or problem is not None:
            return Agreement(worst, used, problem)
        if wanted.dtype.kind == "f":
            finite = np.isfinite(wanted)
            expected = wanted[finite].astype(np.float64)
            difference = float(np.abs(got[finite] - expected).max(initial=0.0))
            allowed = RELATIVE * float(np.abs(expected).max(initial=0.0)) + ABSOLUTE
            worst, used = max(worst, difference), max(used, difference / allowed)
    return Agreement(worst, used)


def _structure(name: str, wanted: NDArray[Any], got: NDArray[Any]) -> str | None:
    """What makes a comparison of magnitudes pointless, if anything does."""
    if got.shape != wanted.shape:
        return f"output {name!r} has shape {got.shape}, expected {wanted.shape}"
    if got.dtype != wanted.dtype:
        return f"output {name!r} has type {got.dtype}, expected {wanted.dtype}"
    if wanted.dtype.kind != "f":
        differing = np.count_nonzero(got != wanted)
        return f"output {name!r} differs in {differing} elements" if differing else None
    special = ~(np.isfinite(wanted) & np.isfinite(got))
    if not np.array_equal(got[special], wanted[special], equal_nan=True):
        return f"output {name!r} is not finite where the reference is, or the other way round"
    return None

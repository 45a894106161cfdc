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
        problem = None
        if got is None:
            problem = f"output {name!r} is missing"
        elif got.shape != wanted.shape:
            problem = f"output {name!r} has shape {got.shape}, expected {wanted.shape}"
        elif got.dtype != wanted.dtype:
            problem = f"output {name!r} has type {got.dtype}, expected {wanted.dtype}"
        elif wanted.dtype.kind == "f" and not np.array_equal(np.isfinite(got), np.isfinite(wanted)):
            problem = f"output {name!r} is not finite where the reference is"
        elif wanted.dtype.kind != "f" and not np.array_equal(got, wanted):
            problem = f"output {name!r} differs in {np.count_nonzero(got != wanted)} elements"
        if problem is not None:
            return Agreement(worst, used, problem)
        if wanted.dtype.kind == "f" and wanted.size:
            assert got is not None
            finite = np.isfinite(wanted)
            magnitude = np.abs(wanted, where=finite, out=np.zeros_like(wanted)).max()
            difference = np.abs(got - wanted, where=finite, out=np.zeros_like(wanted)).max()
            worst = max(worst, float(difference))
            used = max(used, float(difference / (RELATIVE * magnitude + ABSOLUTE)))
    return Agreement(worst, used)

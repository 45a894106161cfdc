"""Equality with a reference, as the project defines it, and a run that checks it on the way."""

from dataclasses import dataclass, field

import numpy as np

from examples.real_input.case import Array, Run, Tensors

RELATIVE, ABSOLUTE = 1e-4, 1e-5


def used_allowance(found: Array, expected: Array) -> float:
    """Largest difference as a share of what is allowed; above 1 the tensors are unequal.

    Floats may differ by 1e-4 of the largest reference magnitude plus 1e-5; anything else, shapes,
    types and the places of NaN and infinities must be the same.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    reference = expected[finite].astype(np.float64)
    difference = np.abs(found[finite].astype(np.float64) - reference).max()
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / (RELATIVE * np.abs(reference).max() + ABSOLUTE))


@dataclass(slots=True)
class Tally:
    """What the comparisons of one model found: runs, distinct shapes, largest used allowance."""

    runs: int = 0
    shapes: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)
    worst: float = 0.0
    where: str = ""

    @property
    def equal(self) -> bool:
        """Whether everything was equal so far, and there was something."""
        return self.runs > 0 and self.worst <= 1

    def compare(self, inputs: Tensors, found: Tensors, expected: Tensors) -> None:
        """Adds one run."""
        self.runs += 1
        self.shapes.add(tuple(array.shape for array in inputs.values()))
        for name, reference in expected.items():
            share = used_allowance(found[name], reference) if name in found else float("inf")
            if share > self.worst:
                self.worst = share
                self.where = f"{name} of inputs {[list(x.shape) for x in inputs.values()]}"


def compared(run: Run, oracle: Run, tally: Tally) -> Run:
    """A run that also asks `oracle` the same, tells `tally`, and answers what `run` answers."""

    def both(inputs: Tensors) -> Tensors:
        found = run(inputs)
        tally.compare(inputs, found, oracle(inputs))
        return found

    return both

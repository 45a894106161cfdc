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
    """What the comparisons of one model found.

    `worst` is the largest used allowance. A run beyond its allowance counts as equal where the
    same model in float64 lies nearer to our result than to the oracle's; `decided` counts such
    runs, with the largest error of both sides there, in allowances.
    """

    runs: int = 0
    shapes: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)
    worst: float = 0.0
    unequal: list[str] = field(default_factory=list)
    decided: int = 0
    our_error: float = 0.0
    their_error: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether everything was equal so far, and there was something."""
        return self.runs > 0 and not self.unequal

    def compare(
        self, inputs: Tensors, found: Tensors, expected: Tensors, exact: Run | None = None
    ) -> None:
        """Adds one run; `exact` is the model in float64, asked only where it has to decide."""
        self.runs += 1
        self.shapes.add(tuple(array.shape for array in inputs.values()))
        share, name = max(
            (used_allowance(found[name], expected[name]) if name in found else float("inf"), name)
            for name in expected
        )
        self.worst = max(self.worst, share)
        if share <= 1 or (exact is not None and self._nearer(found, expected, exact(inputs))):
            return
        shapes = [list(array.shape) for array in inputs.values()]
        self.unequal.append(f"{name} of inputs {shapes} uses {share:.3g} times the allowance")

    def _nearer(self, found: Tensors, expected: Tensors, exact: Tensors) -> bool:
        """Whether our result is at least as near to the exact one as the oracle's is."""
        truth = {name: exact[name].astype(array.dtype) for name, array in expected.items()}
        ours = max(used_allowance(found[name], truth[name]) for name in truth)
        theirs = max(used_allowance(expected[name], truth[name]) for name in truth)
        self.decided += 1
        self.our_error = max(self.our_error, ours)
        self.their_error = max(self.their_error, theirs)
        return ours <= theirs


def compared(run: Run, oracle: Run, tally: Tally, exact: Run | None = None) -> Run:
    """A run that also asks `oracle` the same, tells `tally`, and answers what `run` answers."""

    def both(inputs: Tensors) -> Tensors:
        found = run(inputs)
        tally.compare(inputs, found, oracle(inputs), exact)
        return found

    return both

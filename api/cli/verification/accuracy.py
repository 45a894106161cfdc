"""What bf16 costs a model in accuracy: beside itself in fp32, case by case.

Errors of an output are relative: the root of the mean squared difference over that of fp32's
values, all cases together. Errors of single products add up like independent noise, as squares; so
where the budget is exceeded, the products are tried one by one, and as many of the worst are
suggested to stay in fp32 as bring the sum of the others' squares below it. What is suggested is
then run, and more are added while that is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

import engine
from api.cli.verification.cases import Case
from engine.precision import ARITHMETIC, Precision

Loader = Callable[[Precision], engine.Session]
"""Loads the model in a precision."""

Answers = list[dict[str, Any]]


@dataclass(frozen=True)
class OutputError:
    """How far one output lies from fp32: largest absolute error, largest |value| of fp32, and the
    relative error over all cases; of what is no float, the root of the share that differs.
    `problem` names what no number expresses."""

    output: str
    max_error: float
    largest: float
    relative: float
    problem: str = ""


@dataclass
class Accuracy:
    """One model in bf16 beside fp32.

    `right` counts the cases whose largest value of the first output stands where their label says,
    in fp32 and in bf16, out of `labelled`. `kept` are products suggested to stay in fp32, with the
    largest relative error that is left then.
    """

    description: str
    budget: float
    outputs: list[OutputError]
    labelled: int = 0
    right: tuple[int, int] = (0, 0)
    kept: tuple[str, ...] = ()
    left: float = 0.0
    products: list[tuple[str, float]] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """Largest relative error of an output; infinite where one cannot be compared."""
        return _worst(self.outputs)

    @property
    def within(self) -> bool:
        """Whether every output keeps the budget."""
        return self.worst <= self.budget


class Measurement:
    """Measures a model's accuracy on given cases."""

    def __init__(self, load: Loader, cases: Sequence[Case], precision: Precision) -> None:
        self._load = load
        self._cases = cases
        self._precision = precision
        self._wanted, _, _ = self._answers(Precision())

    def measure(
        self,
        budget: float,
        labels: Mapping[str, int],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> Accuracy:
        """The model's accuracy; `report` is told how many products have been tried.

        `labels` gives the index of the largest value of the first output, by case.
        """
        found, description, products = self._answers(self._precision)
        accuracy = Accuracy(description, budget, errors(self._wanted, found))
        known = [n for n, case in enumerate(self._cases) if case.name in labels]
        accuracy.labelled = len(known)
        accuracy.right = (
            self._right(self._wanted, labels, known),
            self._right(found, labels, known),
        )
        if not accuracy.within:
            self._suggest(accuracy, products, report)
        return accuracy

    def _answers(self, precision: Precision) -> tuple[Answers, str, tuple[str, ...]]:
        """Outputs of every case, what became of the precision, and the products in bf16."""
        session = self._load(precision)
        try:
            operations = session.explain().operations
            names = (o.node for o in operations if o.reason == ARITHMETIC)
            found = [dict(session.run(case.inputs)) for case in self._cases]
            return found, session.precision, tuple(dict.fromkeys(names))
        finally:
            session.close()

    def _right(self, answers: Answers, labels: Mapping[str, int], known: Sequence[int]) -> int:
        right = 0
        for number in known:
            first = next(iter(answers[number].values()))
            right += int(np.argmax(first)) == labels[self._cases[number].name]
        return right

    def _suggest(
        self, accuracy: Accuracy, products: Sequence[str], report: Callable[[int, int], None]
    ) -> None:
        alone = {}
        for done, name in enumerate(products):
            report(done, len(products))
            others = [other for other in products if other != name]
            alone[name] = self._error((*self._precision.keep, *others))
        accuracy.products = sorted(alone.items(), key=lambda item: -item[1])
        names = [name for name, _ in accuracy.products]
        squares = [error**2 for _, error in accuracy.products]
        count = next(n for n in range(len(names) + 1) if sum(squares[n:]) <= accuracy.budget**2)
        while True:
            left = self._error((*self._precision.keep, *names[:count]))
            if left <= accuracy.budget or count == len(names):
                break
            count = min(len(names), count + max(1, count // 4))
        accuracy.kept, accuracy.left = tuple(names[:count]), left

    def _error(self, kept: Sequence[str]) -> float:
        precision = Precision(
            self._precision.kind, tuple(kept), self._precision.first, self._precision.emulate
        )
        return _worst(errors(self._wanted, self._answers(precision)[0]))


def errors(wanted: Answers, found: Answers) -> list[OutputError]:
    """Errors of every output over all cases."""
    return [_error(name, wanted, found) for name in (wanted[0] if wanted else ())]


def _error(name: str, wanted: Answers, found: Answers) -> OutputError:
    total, difference, largest, max_error = 0.0, 0.0, 0.0, 0.0
    for one, other in zip(wanted, found, strict=True):
        pairs = list(zip_longest(_tensors(one[name]), _tensors(other[name])))
        if any(a is None or b is None or a.shape != b.shape for a, b in pairs):
            return OutputError(name, 0.0, 0.0, float("inf"), "has another shape than in fp32")
        for expected, got in pairs:
            if expected.dtype.kind != "f":
                # Of what is no float, the share of elements that differ.
                total += expected.size
                difference += int(np.count_nonzero(expected != got))
                continue
            finite = np.isfinite(expected) & np.isfinite(got)
            if not np.array_equal(expected[~finite], got[~finite], equal_nan=True):
                problem = "is infinite or no number in one precision only"
                return OutputError(name, 0.0, 0.0, float("inf"), problem)
            values = expected[finite].astype(np.float64)
            distances = np.abs(got[finite].astype(np.float64) - values)
            total += float(np.square(values).sum())
            difference += float(np.square(distances).sum())
            largest = max(largest, float(np.abs(values).max(initial=0.0)))
            max_error = max(max_error, float(distances.max(initial=0.0)))
    if difference == 0:
        return OutputError(name, 0.0, largest, 0.0)
    relative = float("inf") if total == 0 else (difference / total) ** 0.5
    return OutputError(name, max_error, largest, relative)


def _tensors(value: Any) -> list[Any]:
    """The tensors of an output, which may be a sequence or nothing."""
    return [np.asarray(item) for item in value] if isinstance(value, list) else [np.asarray(value)]


def _worst(outputs: Sequence[OutputError]) -> float:
    return max((output.relative for output in outputs), default=0.0)

"""All cases, and one run of a case on the engine or behind HTTP beside the oracle."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from examples.real_input import denoising, faces, language, pictures, recognition, signals
from examples.real_input.case import Case, Outcome, Run, Tensors
from examples.real_input.comparison import Tally, compared
from examples.real_input.float64 import float64_run
from examples.real_input.servers import engine_run, http_run, oracle_run

CASES: tuple[Case, ...] = (
    *pictures.CASES,
    *faces.CASES,
    *recognition.CASES,
    *language.CASES,
    *signals.CASES,
    *denoising.CASES,
)
WAYS: dict[str, Callable[[Path], AbstractContextManager[Run]]] = {
    "engine": engine_run,
    "http": http_run,
}
"""Ways to reach the engine: in this process, and through the gateway."""


@dataclass(frozen=True, slots=True)
class Result:
    """One case by one way: the task's outcome and a tally of comparisons per model."""

    case: Case
    outcome: Outcome
    tallies: dict[str, Tally]

    @property
    def passed(self) -> bool:
        """Whether the task's target is met and every output of every model is equal."""
        return (
            self.outcome.passed
            and bool(self.tallies)
            and all(tally.equal for tally in self.tallies.values())
        )

    @property
    def worst(self) -> float:
        """Largest used allowance over all models."""
        return max((tally.worst for tally in self.tallies.values()), default=float("inf"))

    def complaint(self) -> str:
        """What is wrong, in one text."""
        unequal = [
            f"{model}: {len(tally.unequal)} of {tally.runs} runs differ, first {tally.unequal[0]}"
            for model, tally in self.tallies.items()
            if tally.unequal
        ]
        if not self.outcome.passed:
            unequal.insert(0, f"{self.outcome.figure} (asked for: {self.outcome.target})")
        return "; ".join(unequal)


def _exact(path: Path) -> Run:
    """The model in float64, read when it is first asked."""
    made: list[Run] = []

    def run(inputs: Tensors) -> Tensors:
        if not made:
            made.append(float64_run(path))
        return made[0](inputs)

    return run


def solve(case: Case, models: Path, way: str) -> Result:
    """Run a case one way, every answer compared with onnxruntime's on the same input."""
    tallies: dict[str, Tally] = {}
    with ExitStack() as stack:

        def open_(model: str) -> Run:
            tallies[model] = Tally()
            run = stack.enter_context(WAYS[way](models / model))
            oracle = stack.enter_context(oracle_run(models / model))
            return compared(run, oracle, tallies[model], _exact(models / model))

        outcome = case.solve(models, open_)
    return Result(case, outcome, tallies)

"""`packhorse verify --precision bf16`: the report on accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
from rich.markup import escape
from rich.table import Table

import engine
from api.cli import terminal
from api.cli.errors import CommandError, UsageError
from api.cli.verification.accuracy import Accuracy, Measurement
from api.cli.verification.cases import LABELS, Case
from engine.errors import EngineError
from engine.precision import Precision

_SHOWN: Final = 5


def read_labels(given: str | None, inputs: Sequence[str]) -> dict[str, int]:
    """Labels by case: those of the file `given`, else of `labels.json` in folders of inputs.

    Raises UsageError for a file that is no object of class indices.
    """
    paths = [Path(given)] if given else [Path(folder) / LABELS for folder in inputs]
    labels: dict[str, int] = {}
    for path in paths:
        if not given and not path.is_file():
            continue
        try:
            found = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        if not isinstance(found, dict) or not all(type(n) is int for n in found.values()):
            raise UsageError(f'{path}: give class indices by case, such as {{"cat.png": 3}}')
        labels |= found
    return labels


def measured(
    model: str,
    tries: Callable[[engine.Session], Iterator[list[Case]]],
    precision: Precision,
    budget: float,
    labels: dict[str, int],
    threads: int | None,
    isa: str | None,
) -> Accuracy:
    """Accuracy on the first inputs of each try that the model takes. Raises CommandError."""

    def load(chosen: Precision) -> engine.Session:
        return engine.load(model, threads, isa=isa, precision=chosen)

    plain = load(Precision())
    try:
        cases = [_taken(plain, inputs) for inputs in tries(plain)]
    finally:
        plain.close()
    if unknown := sorted(labels.keys() - {case.name for case in cases}):
        raise UsageError(f"there are labels for {', '.join(unknown[:_SHOWN])}, but no such inputs")
    with terminal.progress() as report:
        measurement = Measurement(load, cases, precision)
        return measurement.measure(
            budget, labels, lambda done, total: report("trying products one by one", done, total)
        )


def _taken(session: engine.Session, tries: Sequence[Case]) -> Case:
    problem = "there are no inputs"
    for case in tries:
        try:
            session.run(case.inputs)
        except EngineError as error:
            problem = f"{case.name}: {error}"
        else:
            return case
    raise CommandError(problem)


def document(model: str, accuracy: Accuracy) -> dict[str, Any]:
    """Everything, as JSON takes it."""
    return {"model": model, "within": accuracy.within, "worst": accuracy.worst} | asdict(accuracy)


def show(accuracy: Accuracy) -> None:
    """Print the report."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("output", "max error", "largest in fp32", "relative error", ""):
        table.add_column(column, justify="left" if column in ("output", "") else "right")
    for output in accuracy.outputs:
        exceeds = "over the budget" if output.relative > accuracy.budget else ""
        numbers = f"{output.max_error:.3g}", f"{output.largest:.3g}", f"{output.relative:.3%}"
        table.add_row(escape(output.output), *numbers, escape(output.problem or exceeds))
    terminal.output.print(escape(accuracy.description))
    terminal.output.print(table)
    if accuracy.labelled:
        plain, reduced = accuracy.right
        terminal.output.print(
            f"right of {accuracy.labelled} labelled cases: {plain} in fp32, {reduced} in bf16"
        )
    if accuracy.within:
        terminal.output.print(
            f"[bold green]Every output is within {accuracy.budget:.3%} of fp32.[/]"
        )
        return
    terminal.output.print(f"[bold red]The budget of {accuracy.budget:.3%} is exceeded.[/]")
    if accuracy.products:
        worst = ", ".join(f"{name} {error:.3%}" for name, error in accuracy.products[:_SHOWN])
        terminal.output.print(f"products with the largest errors of their own: {escape(worst)}")
    if accuracy.kept:
        flags = " ".join(f"--fp32-node '{name}'" for name in accuracy.kept)
        terminal.output.print(
            f"with these {len(accuracy.kept)} in fp32 the error is {accuracy.left:.3%}: "
            f"{escape(flags)}"
        )

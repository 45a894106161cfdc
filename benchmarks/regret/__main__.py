"""What a wrong choice costs: ``python -m benchmarks.regret``.

For every shape of a grid, each candidate is forced in turn and timed beside the others; regret is
how much longer the one that the engine chooses takes than the best of them. The parts are the
choices of the arithmetic plan (`filtering`, `depthwise`) and of schedules (`copying`, `products`).
A run may take them one by one: ``--json`` keeps what was measured, case by case, ``--resume`` goes
on from there, and ``--join`` shows several together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.status import Status

from benchmarks import options, tables
from benchmarks.provenance import Provenance, collect, command
from benchmarks.regret.choice import Choice
from benchmarks.regret.parts import PARTS, Setup

MEAN, WORST = 0.05, 0.25
"""What regret may be at most."""

SHOWN = 12


class RegretReport(BaseModel):
    """Everything measured."""

    provenance: Provenance
    threads: int
    choices: list[Choice]


def show(out: Console, choices: Sequence[Choice]) -> None:
    """Print the worst choices, then mean and worst of every part."""
    table = tables.grid(
        "Worst choices", *("part", "case", "chosen", "time", "best", "time", "regret"), left=2
    )
    for each in sorted(choices, key=lambda each: -each.regret)[:SHOWN]:
        table.add_row(
            *(each.part, each.case, each.chosen, tables.duration(each.seconds[each.chosen])),
            *(each.best, tables.duration(each.seconds[each.best]), f"{100 * each.regret:.1f} %"),
        )
    out.print(table)
    summary = tables.grid(
        f"Regret (goals: mean at most {tables.percent(MEAN)}, worst {tables.percent(WORST)})",
        *("part", "cases", "mean", "worst", "always one candidate, at best"),
    )
    for part in (*dict.fromkeys(each.part for each in choices), "all"):
        found = [each for each in choices if part in (each.part, "all")]
        regrets = [each.regret for each in found]
        figures = f"{100 * float(np.mean(regrets)):.1f} %", f"{100 * max(regrets):.1f} %"
        summary.add_row(part, str(len(found)), *figures, "" if part == "all" else fixed(found))
    out.print(summary)


def fixed(choices: Sequence[Choice]) -> str:
    """The candidate that would be best if the same one were always taken, with its mean regret."""
    means = {
        name: float(np.mean([c.seconds[name] / c.seconds[c.best] - 1 for c in choices]))
        for name in choices[0].seconds
    }
    name = min(means, key=means.__getitem__)
    return f"{name}: {100 * means[name]:.1f} %"


def main(
    parts: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(PARTS),
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: options.Rounds = 5,
    quick: options.Quick = False,
    json_file: options.JsonFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out the cases that --json has already.")
    ] = False,
    join: Annotated[
        list[Path] | None,
        typer.Option(help="Show what earlier runs kept with --json instead of measuring."),
    ] = None,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Compare the engine's choices with the measured best over a grid of shapes."""
    out = tables.console()
    wanted = parts.split(",")
    if not set(wanted) <= set(PARTS):
        raise typer.BadParameter(f"parts are {', '.join(PARTS)}", param_hint="--parts")
    choices: list[Choice] = []
    if join:
        reports = [RegretReport.model_validate_json(path.read_bytes()) for path in join]
        threads = reports[-1].threads
        provenance = reports[-1].provenance.model_copy(update={"command": command()})
        choices = [choice for report in reports for choice in report.choices]
    else:
        provenance = collect()
        if resume and json_file is not None and json_file.exists():
            choices = RegretReport.model_validate_json(json_file.read_bytes()).choices
        done = frozenset((choice.part, choice.case) for choice in choices)
        with Status("", console=out) as status:
            setup = Setup(threads, rounds, cache / "code", quick, done)
            for part in wanted:
                for choice in PARTS[part](setup):
                    choices.append(choice)
                    status.update(f"{part}: {choice.case}")
                    report = RegretReport(provenance=provenance, threads=threads, choices=choices)
                    options.write_text(json_file, report.model_dump_json(indent=1))
    tables.show_provenance(out, provenance)
    out.print(f"{threads} threads")
    show(out, choices)
    report = RegretReport(provenance=provenance, threads=threads, choices=choices)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)

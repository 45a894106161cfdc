"""`python -m benchmarks.conformance`: the onnx package's backend suite through the engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.conformance import results as kept
from benchmarks.conformance.cases import Case, load_cases
from benchmarks.conformance.exclusions import reason_to_exclude
from benchmarks.conformance.pool import Job, run_all
from benchmarks.conformance.report import write_report
from benchmarks.conformance.results import Result, counts
from benchmarks.conformance.trial import Outcome
from benchmarks.machine import usable_cpus
from engine.codegen.store import default_folder

ENGINES = ("packhorse", "onnxruntime")


def run(
    cases: list[Case],
    engines: tuple[str, ...],
    cache: Path,
    workers: int,
    timeout: float,
    out: Console,
) -> list[Result]:
    """Results of all cases, in their order; failures are printed as they come."""
    outcomes: dict[Job, Outcome] = {}
    jobs = [(index, engine) for index in range(len(cases)) for engine in engines]
    with Progress(console=out, transient=True) as bar:
        task = bar.add_task("cases", total=len(jobs))

        def report(job: Job, outcome: Outcome) -> None:
            outcomes[job] = outcome
            bar.advance(task)
            name = cases[job[0]].name
            if job[1] == ENGINES[0] and not outcome.passed and not reason_to_exclude(name):
                out.print(f"{outcome.status} {name}: {outcome.detail}", markup=False)

        run_all(cases, jobs, cache, workers, timeout, report)
    return [
        Result(
            case.name,
            case.kind,
            case.operator,
            outcomes[index, "packhorse"],
            outcomes.get((index, "onnxruntime")),
        )
        for index, case in enumerate(cases)
    ]


def show(out: Console, results: list[Result]) -> None:
    """Print the totals."""
    found = counts(results)
    parts = [f"{found[s]} {s}" for s in ("native", "fallback", "failed", "crashed", "hung")]
    out.print(f"{found['passed']} of {len(results)} pass: {', '.join(parts)}")


def main(
    only: Annotated[str, typer.Option(help="Pattern of names or operators to run.")] = "",
    names: Annotated[Path | None, typer.Option(help="File of names to run, one a line.")] = None,
    alone: Annotated[bool, typer.Option(help="Leave onnxruntime out.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per usable CPU.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds for a case, loading included.")] = 120,
    cache: Annotated[Path | None, typer.Option(help="Folder for cases and kernels.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all outcomes.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the report in Markdown.")] = None,
    expected: Annotated[Path | None, typer.Option(help="Write the statuses to expect.")] = None,
) -> None:
    """Run the suite's CPU tests in our engine and in onnxruntime."""
    out = Console(soft_wrap=True)
    folder = cache or default_folder() / "conformance"
    cases = load_cases(folder)
    if only:
        chosen = re.compile(only)
        cases = [c for c in cases if chosen.search(c.name) or chosen.fullmatch(c.operator)]
    if names is not None:
        wanted = set(names.read_text().split())
        cases = [c for c in cases if c.name in wanted]
    engines = ENGINES[:1] if alone else ENGINES
    results = run(cases, engines, folder / "code", workers or len(usable_cpus()), timeout, out)
    show(out, results)
    if json_file is not None:
        kept.save(json_file, results)
    if page is not None:
        write_report(page, results)
    if expected is not None:
        expected.write_text(kept.statuses(results))


if __name__ == "__main__":
    typer.run(main)

"""`python -m benchmarks.fuzz`: damaged models and requests, in guarded processes."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.fuzz import corpus, model_trial, request_trial, requests
from benchmarks.fuzz.limits import limit_process
from benchmarks.fuzz.minimise import minimise
from benchmarks.fuzz.outcome import Outcome, counts
from benchmarks.guarded import Crew, Loss
from benchmarks.machine import usable_cpus
from engine.codegen.store import default_folder

_PER_LINE = 2000
"""Inputs per line of progress, where no bar can be shown."""

_SHOWN = 3
"""Findings of one cause that are printed."""


def lost(loss: Loss, detail: str) -> Outcome:
    """What a trial whose process is gone counts as."""
    return Outcome(loss, detail)


def quiet() -> None:
    """Limits of a worker process, and no noise from the libraries that it runs."""
    limit_process()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def model_crew(models: list[bytes], cache: Path, seed: int, workers: int) -> Crew[int, Outcome]:
    """Processes that try damaged models by number."""
    return Crew(
        attempt=lambda n: model_trial.attempt(model_trial.damaged(models, seed, n), n, cache),
        lost=lost,
        workers=workers,
        timeout=60,
        jobs_per_process=500,
        open=quiet,
    )


def request_crew(repository: Path, cache: Path, seed: int, workers: int) -> Crew[int, Outcome]:
    """Processes that try damaged requests by number, each with a server of its own."""
    targets: list[request_trial.Target] = []

    def attempt(number: int) -> Outcome:
        if not targets:
            targets.append(request_trial.Target(repository, cache))
        return targets[0].attempt(requests.damaged(seed, number))

    return Crew(
        attempt=attempt,
        lost=lost,
        workers=workers,
        timeout=60,
        jobs_per_process=2000,
        open=quiet,
    )


def run(out: Console, what: str, crew: Crew[int, Outcome], numbers: range) -> dict[int, Outcome]:
    """Outcomes of the numbered inputs; the first findings of every cause are printed.

    What shows a fault is tried again in a fresh process and counts if it shows one again: a busy
    machine may hold up anything for a minute.
    """
    outcomes: dict[int, Outcome] = {}
    with Progress(console=out, transient=True) as bar:
        task = bar.add_task(what, total=len(numbers))

        def report(number: int, outcome: Outcome) -> None:
            is_new = number not in outcomes
            outcomes[number] = outcome
            bar.advance(task)
            if is_new and not out.is_terminal and len(outcomes) % _PER_LINE == 0:
                out.print(f"{len(outcomes)} of {len(numbers)} {what}s")

        crew.run(numbers, report)
        crew.run([n for n, outcome in outcomes.items() if outcome.is_finding], report)
    seen: Counter[str] = Counter()
    for number, outcome in sorted(outcomes.items()):
        if outcome.is_finding:
            seen[outcome.signature] += 1
            if seen[outcome.signature] <= _SHOWN:
                text = f"{what} {number}: {outcome.status}: {outcome.detail}"
                out.print(text.replace("\n", " | "), markup=False)
    return outcomes


def show(out: Console, what: str, outcomes: dict[int, Outcome], seconds: float) -> None:
    """Print the totals of one kind of input."""
    found = counts(outcomes.values())
    listed = ", ".join(f"{count} {status}" for status, count in found.most_common())
    slowest = max((o.seconds for o in outcomes.values()), default=0.0)
    largest = max((o.memory for o in outcomes.values()), default=0)
    out.print(
        f"{len(outcomes)} damaged {what} in {seconds:.0f} s: {listed}; the slowest took "
        f"{slowest:.1f} s, the largest {largest >> 20} MiB",
        markup=False,
    )


def keep(
    folder: Path, models: list[bytes], seed: int, cache: Path, outcomes: dict[int, Outcome]
) -> None:
    """Write one model per cause, made as small as the fault allows."""
    folder.mkdir(parents=True, exist_ok=True)
    causes: dict[str, int] = {}
    for number, outcome in sorted(outcomes.items()):
        if outcome.is_finding:
            causes.setdefault(outcome.signature, number)
    for signature, number in causes.items():
        fails = _same_fault(signature, number, cache)
        data = minimise(model_trial.damaged(models, seed, number), fails)
        (folder / f"{number}.onnx").write_bytes(data)
        (folder / f"{number}.txt").write_text(
            f"{outcomes[number].status}: {outcomes[number].detail}\n"
        )


def _same_fault(signature: str, number: int, cache: Path) -> Callable[[bytes], bool]:
    def fails(data: bytes) -> bool:
        found: list[Outcome] = []
        crew: Crew[bytes, Outcome] = Crew(
            attempt=lambda model: model_trial.attempt(model, number, cache),
            lost=lost,
            workers=1,
            timeout=60,
            open=quiet,
        )
        crew.run([data], lambda job, outcome: found.append(outcome))
        return found[0].signature == signature

    return fails


def main(
    models: Annotated[int, typer.Option(help="Damaged models to try.")] = 20_000,
    queries: Annotated[int, typer.Option("--requests", help="Damaged requests.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Another seed gives other inputs.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first input.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per usable CPU.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--keep", help="Write models that fail here, made small.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for cases and kernels.")] = None,
) -> None:
    """Try damaged models and requests; the exit code is 1 where one shows a fault."""
    out = Console(soft_wrap=True)
    home = cache or default_folder() / "fuzz"
    published = os.environ.get("PACKHORSE_MODELS")
    count = workers or len(usable_cpus())
    failed = False
    if models:
        files = corpus.models(
            default_folder() / "conformance", Path(published) if published else None
        )
        began = time.perf_counter()
        crew = model_crew(files, home, seed, count)
        outcomes = run(out, "model", crew, range(first, first + models))
        show(out, "models", outcomes, time.perf_counter() - began)
        failed |= any(outcome.is_finding for outcome in outcomes.values())
        if folder is not None:
            keep(folder, files, seed, home, outcomes)
    if queries:
        with tempfile.TemporaryDirectory() as repository:
            request_trial.fill(Path(repository))
            began = time.perf_counter()
            crew = request_crew(Path(repository), home, seed, count)
            outcomes = run(out, "request", crew, range(first, first + queries))
            show(out, "requests", outcomes, time.perf_counter() - began)
            failed |= any(outcome.is_finding for outcome in outcomes.values())
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

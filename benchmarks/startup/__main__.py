"""`python -m benchmarks.startup`: seconds from process start to first answer."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.status import Status

from benchmarks import options, tables
from benchmarks.machine import usable_cpus
from benchmarks.models import BenchmarkModel, case_inputs, case_name, model_path
from benchmarks.provenance import ROOT, collect
from benchmarks.results import StartupReport, StartupResult

DEFAULT_MODELS = "resnet50,mlp"
PAUSE_SECONDS = 0.1


@dataclass
class Scenario:
    """One way of starting: an engine, and where its compiled code is kept.

    `cached` None gives the engine no folder, False an empty one each time, True one that an
    uncounted start has filled.
    """

    label: str
    engine: str
    cached: bool | None = None
    seconds: list[float] = field(default_factory=list)
    failure: str | None = None


def scenarios() -> list[Scenario]:
    """All ways of starting that are compared."""
    return [
        Scenario("Python and numpy alone", "none"),
        Scenario("packhorse, empty cache", "packhorse", cached=False),
        Scenario("packhorse, warm cache", "packhorse", cached=True),
        Scenario("onnxruntime", "onnxruntime"),
        Scenario("openvino", "openvino"),
        Scenario("openvino, warm cache", "openvino", cached=True),
    ]


def start(command: list[str], timeout: float, bytecode: Path | None = None) -> float:
    """Seconds from the start of a process to the answer it prints; RuntimeError where it fails.

    With `bytecode`, the process finds compiled modules in that folder, as those of an installed
    package lie beside it.
    """
    environment = dict(os.environ)
    if bytecode is not None:
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic_ns()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {timeout:g} s") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith("answered ")]
    if done.returncode != 0 or not answers:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    return (int(answers[-1].split()[1]) - began) / 1e9


def measure(
    model: BenchmarkModel,
    cache: Path,
    threads: int,
    rounds: int,
    timeout: float,
    report: Callable[[str], None],
) -> list[StartupResult]:
    """Start every scenario `rounds` times, in turns, after one uncounted round."""
    path = model_path(model, cache / "models")
    dims = model.cases[0]
    compared = scenarios()
    with tempfile.TemporaryDirectory(prefix="packhorse-startup-") as scratch:
        folder = Path(scratch)
        inputs = folder / "inputs.npz"
        arrays = case_inputs(model, dims)
        np.savez(inputs, allow_pickle=False, **arrays)
        for round_number in range(-1, rounds):
            for index, scenario in enumerate(compared):
                if scenario.failure is not None:
                    continue
                report(f"{model.title}: {scenario.label}, round {max(round_number, 0) + 1}")
                command = [sys.executable, "-m", "benchmarks.startup.first_answer"]
                command += [scenario.engine, str(path), str(inputs), str(threads)]
                if scenario.cached is not None:
                    name = f"warm-{index}" if scenario.cached else f"empty-{index}-{round_number}"
                    (folder / name).mkdir(exist_ok=True)
                    command.append(str(folder / name))
                time.sleep(PAUSE_SECONDS)
                try:
                    seconds = start(command, timeout, folder / "bytecode")
                except RuntimeError as error:
                    scenario.failure = str(error)
                    continue
                if round_number >= 0:
                    scenario.seconds.append(seconds)
    return [
        StartupResult(
            model=model.title,
            case=case_name(dims),
            scenario=scenario.label,
            seconds=scenario.seconds,
            failure=scenario.failure,
        )
        for scenario in compared
    ]


def show(out: Console, results: list[StartupResult]) -> None:
    """Print one row per model and scenario."""
    table = tables.grid(
        "Process start to first answer", "model", "case", "scenario", "minimum", "median", left=3
    )
    for model in dict.fromkeys(result.model for result in results):
        for result in (result for result in results if result.model == model):
            figures = ["[red]failed[/]", ""]
            if result.seconds:
                middle = statistics.median(result.seconds)
                figures = [tables.duration(min(result.seconds)), tables.duration(middle)]
            table.add_row(result.model, result.case, result.scenario, *figures)
        table.add_section()
    out.print(table)
    tables.show_reasons(
        out, ((r.scenario, r.model, r.failure) for r in results if r.failure is not None)
    )


def main(
    models: options.Models = DEFAULT_MODELS,
    threads: Annotated[int | None, typer.Option(help="All usable CPUs by default.")] = None,
    rounds: options.Rounds = 5,
    json_file: options.JsonFile = None,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
    timeout: options.Timeout = 120.0,
) -> None:
    """Start each engine in a fresh process, in turns, and time its first answer."""
    out = tables.console()
    chosen = options.chosen_models("mlp" if quick else models)
    provenance = collect()
    tables.show_provenance(out, provenance)
    results: list[StartupResult] = []
    with Status("", console=out) as status:
        for model in chosen:
            count = threads or len(usable_cpus())
            found = measure(model, cache, count, 1 if quick else rounds, timeout, status.update)
            results.extend(found)
    show(out, results)
    report = StartupReport(provenance=provenance, results=results)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)

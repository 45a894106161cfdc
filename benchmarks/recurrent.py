"""Recurrent layers beside onnxruntime and OpenVINO: ``python -m benchmarks.recurrent``.

LSTM and GRU of one direction over hidden sizes, batches and numbers of steps. What a step must read
at least, its recurrent weights, stands against the bandwidth of every cache.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from benchmarks import engines, options, pages, roofline, tables, turns
from benchmarks.comparison import Plan, compare_engines, with_peak_shares
from benchmarks.models import LAYERS
from benchmarks.provenance import collect
from benchmarks.remote import Remote
from benchmarks.results import CaseResult, Limits, PeersReport, Provenance
from benchmarks.summary import geometric_mean, slow_cases, speedup, steady_speedup

SMALL_HIDDEN = 256
"""Largest hidden size whose weights a core may keep to itself."""

PACE = turns.Pace(
    block_seconds=0.05,
    pause_seconds=0.03,
    most_rounds=8,
    steady_blocks=2,
    case_seconds=6.0,
)
"""A core's speed changes every few seconds; short turns let every engine meet the fast ones, so
that minima are comparable. Cases go on until each engine had some of them."""


def steadier(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """One result per case: of several the one that met the faster machine, whatever it found."""
    found: dict[tuple[str, str, int], CaseResult] = {}
    for case in cases:
        other = found.get(_key(case))
        if other is None or case.core_speed > other.core_speed:
            found[_key(case)] = case
    return list(found.values())


def _key(case: CaseResult) -> tuple[str, str, int]:
    return case.model, case.case, case.threads


def hidden(case: CaseResult) -> int:
    """Hidden size of a case's layer."""
    return int(case.model.rsplit("_", 1)[1])


Group = tuple[str, Callable[[CaseResult], bool]]

GROUPS: tuple[Group, ...] = (
    (f"batch 1, hidden up to {SMALL_HIDDEN}", lambda c: _is(c, 1, small=True)),
    (f"batch 1, hidden over {SMALL_HIDDEN}", lambda c: _is(c, 1, small=False)),
    ("batch 8", lambda c: c.dims["batch"] == 8),
    ("batch 32", lambda c: c.dims["batch"] == 32),
    ("all", lambda _: True),
)


def _is(case: CaseResult, batch: int, *, small: bool) -> bool:
    return case.dims["batch"] == batch and (hidden(case) <= SMALL_HIDDEN) == small


def show_groups(out: Console, cases: Sequence[CaseResult]) -> None:
    """Print geometric means and the worst case of every group, by threads and by cell."""
    table = tables.grid(
        "Speed-up over the faster of onnxruntime and OpenVINO, by minima",
        *("group", "threads", "cell", "cases", "geometric mean", "worst", "of"),
        *("at one speed", "worst", "of"),
        left=3,
    )
    for label, belongs in GROUPS:
        for threads in sorted({case.threads for case in cases}):
            for cell in ("LSTM", "GRU", "both"):
                chosen = [
                    case
                    for case in cases
                    if belongs(case)
                    and case.threads == threads
                    and (cell == "both" or case.title.startswith(cell))
                ]
                count, *row = _gains(chosen, speedup)
                if count != "0":
                    row += _gains(chosen, steady_speedup)[1:]
                    table.add_row(label, str(threads), cell, count, *row)
        table.add_section()
    out.print(table)


def _gains(
    cases: Sequence[CaseResult], gain: Callable[[CaseResult], float | None]
) -> tuple[str, str, str, str]:
    """Number of cases that have a gain, geometric mean, worst gain, and where that is."""
    found = [(value, case) for case in cases if (value := gain(case)) is not None]
    if not found:
        return "0", "-", "-", "-"
    worst, where = min(found, key=lambda pair: pair[0])
    mean = geometric_mean(value for value, _ in found)
    return str(len(found)), tables.ratio(mean), tables.ratio(worst), f"{where.title} {where.case}"


def show_missing(out: Console, cases: Sequence[CaseResult]) -> None:
    """Say what a run that ended early has left out of all layers on 1 and 2 threads."""
    if missing := _missing(cases):
        out.print(f"[yellow]{len(cases)} of {len(cases) + missing} cases were measured[/]")


def _missing(cases: Sequence[CaseResult]) -> int:
    """Cases of all layers on 1 and 2 threads that were not measured."""
    return sum(len(model.cases) for model in LAYERS.values()) * 2 - len(cases)


def earlier(path: Path | None, now: Provenance) -> PeersReport | None:
    """What an interrupted run has left in a file; None where there is no file.

    Raises typer.BadParameter where it was taken of other code or on another machine.
    """
    if path is None:
        raise typer.BadParameter("--resume needs the file of --json")
    if not path.exists():
        return None
    report = PeersReport.model_validate_json(path.read_text())
    for field in ("cpu", "cpus", "commit", "modified", "versions"):
        then, here = getattr(report.provenance, field), getattr(now, field)
        if then != here:
            raise typer.BadParameter(f"{path} has {field} {then}, this run has {here}; start anew")
    return report


def save(
    path: Path | None, provenance: Provenance, limits: Limits, cases: list[CaseResult]
) -> PeersReport:
    """Write what there is to a file, so that a run that is ended loses no case; the report."""
    report = PeersReport(provenance=provenance, limits=limits, notes=[], cases=cases, loadings=[])
    options.write_text(path, report.model_dump_json(indent=1))
    return report


def markdown(printed: str, page: Path, plot: Path | None) -> str:
    """A page with the chart and the tables as they were printed."""
    introduction = (
        "Written by `python -m benchmarks.recurrent --page`; see [benchmarks](benchmarks.md)",
        "for how figures are taken and [recurrent](recurrent.md) for what they follow from.",
    )
    chart = None
    if plot is not None:
        chart = "Time per step against hidden size", pages.link(plot, page)
    return pages.markdown("Performance of recurrent layers", introduction, printed, chart)


def main(
    layers: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated; all by default. Known: {', '.join(LAYERS)}."),
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts.")] = "1,2",
    rounds: options.Rounds = 4,
    json_file: options.JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this PNG.")] = None,
    page: pages.PageFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the file of --json holds, add what is not.")
    ] = False,
    within: Annotated[
        float, typer.Option(help="Seconds after which no case is begun; --resume goes on.")
    ] = math.inf,
    repeat: Annotated[
        bool,
        typer.Option(
            "--repeat",
            help="With --resume: measure cases marked ! again, keep the steadier result.",
        ),
    ] = False,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
    timeout: options.Timeout = 600.0,
) -> None:
    """Compare the engines on single recurrent layers in one run."""
    out = tables.console()
    names = list(LAYERS) if layers is None else [name.strip() for name in layers.split(",")]
    unknown = sorted(set(names) - set(LAYERS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(LAYERS)}")
    counts = options.integers(threads, "--threads")
    started = time.monotonic()
    provenance = collect()
    before = earlier(json_file, provenance) if resume else None
    cases = [] if before is None else list(before.cases)
    marked = slow_cases(cases) if repeat else []
    known = frozenset(map(_key, cases)) - frozenset(map(_key, marked))
    tables.show_provenance(out, provenance)
    pace = turns.QUICK if quick else replace(PACE, rounds=rounds)
    chosen = [LAYERS[name] for name in names]
    plan = Plan(
        *(chosen, engines.FP32_ENGINES, counts, pace, cache),
        small=quick,
        timeout=timeout,
        known=known,
        pin=True,
    )
    effort = roofline.QUICK if quick else roofline.Effort()
    with Remote(partial(roofline.Meter, effort)) as meter, Status("", console=out) as status:
        status.update("measuring the machine")
        limits: Limits = meter.call("measure") if before is None else before.limits
        steadiness = turns.Steadiness(partial(meter.call, "fp32"))
        for case in cases:
            best = steadiness.best.get(case.threads, 0.0)
            steadiness.best[case.threads] = max(best, case.core_speed * case.threads)
        results = compare_engines(plan, steadiness, status.update)
        with closing(results):
            for result in results:
                if isinstance(result, CaseResult):
                    cases = steadier([*cases, result])
                    save(json_file, provenance, limits, cases)
                if time.monotonic() - started > within:
                    break
        if not _missing(cases):
            status.update("measuring the machine again")
            limits = limits.best(meter.call("measure"))
    order = list(LAYERS)
    cases.sort(key=lambda case: (order.index(case.model), case.threads, *case.dims.values()))
    show_missing(out, cases)
    tables.show_limits(out, limits)
    cases = with_peak_shares(cases)
    tables.show_cases(out, cases)
    tables.show_failures(out, cases)
    show_groups(out, cases)
    tables.show_drift(out, cases)
    report = save(json_file, provenance, limits, cases)
    if plot is not None:
        from benchmarks.recurrent_chart import draw_steps

        draw_steps(report, plot)
    if page is not None:
        options.write_text(page, markdown(out.export_text(), page, plot))


if __name__ == "__main__":
    typer.run(main)

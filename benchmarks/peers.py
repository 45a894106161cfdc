"""Latency of Packhorse, onnxruntime and OpenVINO on every benchmark network.

`python -m benchmarks.peers --help` lists the options; how figures are taken: docs/benchmarks.md.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status

from benchmarks import engines, options, pages, roofline, tables, turns
from benchmarks.comparison import Plan, compare_engines, with_peak_shares
from benchmarks.provenance import collect
from benchmarks.remote import Remote
from benchmarks.results import CaseResult, Limits, Loading, PeersReport
from benchmarks.roofline.instruction_sets import host_features

PRECISIONS = ("fp32", "bf16")


def entrants(precisions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Engines for the precisions that this CPU has, and notes on what is left out."""
    names: list[str] = []
    notes: list[str] = []
    if "fp32" in precisions:
        names.extend(engines.FP32_ENGINES)
    if "bf16" in precisions:
        present = host_features()
        if any(present.get(name) for name in engines.BF16_FEATURES):
            names.extend(engines.BF16_ENGINES)
        else:
            notes.append("bf16: this CPU has no bf16 arithmetic; not measured")
    return names, notes


def markdown(printed: str, page: Path, plot: Path | None) -> str:
    """A page with the chart and the tables as they were printed."""
    introduction = (
        "Written by `python -m benchmarks.peers --page`; see",
        "[benchmarks](benchmarks.md) for how the figures are taken, and",
        "[recurrent layers](performance-recurrent.md) for LSTM and GRU by size:",
        "",
        "![Time per step of recurrent layers](performance-recurrent.png)",
    )
    chart = None
    if plot is not None:
        chart = "Speed relative to the faster peer", pages.link(plot, page)
    return pages.markdown("Performance", introduction, printed, chart)


def main(
    models: options.Models = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or both.")] = "fp32,bf16",
    threads: Annotated[str, typer.Option(help="Thread counts.")] = "1,2",
    case: Annotated[
        list[str] | None, typer.Option(help="Measure this case alone, as tables name it; again.")
    ] = None,
    rounds: options.Rounds = 5,
    json_file: options.JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this PNG.")] = None,
    page: pages.PageFile = None,
    isa: Annotated[
        str | None,
        typer.Option(help="Mask CPU features: baseline, avx2, avx512. onnxruntime takes no mask."),
    ] = None,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
    timeout: options.Timeout = 600.0,
) -> None:
    """Compare the engines in one run and print latencies, ratios and the machine's limits."""
    out = tables.console()
    chosen = options.chosen_models(models)
    precisions = tuple(part.strip() for part in precision.split(","))
    if not set(precisions) <= set(PRECISIONS):
        raise typer.BadParameter(f"{precision!r} is not fp32, bf16 or both")
    names, notes = entrants(precisions)
    counts = options.integers(threads, "--threads")
    if isa is not None:
        if isa not in engines.MASKS:
            raise typer.BadParameter(f"{isa!r} is not one of {', '.join(engines.MASKS)}")
        notes.append(f"instruction sets masked to {isa} for Packhorse and OpenVINO only")

    provenance = collect()
    tables.show_provenance(out, provenance)
    for note in notes:
        out.print(f"[yellow]{note}[/]")
    if not names:
        raise typer.Exit(1)
    pace = turns.Pace(rounds, most_rounds=3 * rounds, steady_blocks=2, case_seconds=90.0)
    only = frozenset(case) if case else None
    plan = Plan(
        chosen, names, counts, turns.QUICK if quick else pace, cache, isa, quick, timeout, only=only
    )
    effort = roofline.QUICK if quick else roofline.Effort()
    with Remote(partial(roofline.Meter, effort)) as meter, Status("", console=out) as status:
        status.update("measuring the machine")
        limits: Limits = meter.call("measure")
        cases: list[CaseResult] = []
        loadings: list[Loading] = []

        def probe(cores: int) -> float:
            return float(meter.call("fp32", cores, isa))

        for result in compare_engines(plan, turns.Steadiness(probe), status.update):
            if isinstance(result, Loading):
                loadings.append(result)
            else:
                cases.append(result)
        status.update("measuring the machine again")
        limits = limits.best(meter.call("measure"))
    report = PeersReport(
        provenance=provenance,
        limits=limits,
        notes=notes,
        cases=with_peak_shares(cases),
        loadings=loadings,
    )
    tables.show_limits(out, report.limits)
    tables.show_cases(out, report.cases)
    tables.show_failures(out, report.cases)
    tables.show_loadings(out, report.loadings)
    tables.show_means(out, report.cases)
    tables.show_drift(out, report.cases)
    options.write_text(json_file, report.model_dump_json(indent=1))
    if plot is not None:
        from benchmarks.charts import draw_peers

        draw_peers(report, plot)
    if page is not None:
        options.write_text(page, markdown(out.export_text(), page, plot))


if __name__ == "__main__":
    typer.run(main)

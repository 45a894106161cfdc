"""Streams of random shapes: what a shape costs the first time, and what it costs later.

Every engine meets the same shapes in the same order. Later visits come after other shapes, so that
the processor's caches are as cold as at the first visit, and soon, because the speed of a core
drifts. For the same reason engines take turns every few visits. A run may take the models one by
one, and a part of a stream: ``--json`` keeps what was measured, ``--join`` shows what was kept as
one report.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import sleep
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.status import Status

from benchmarks import engines, options, pages, tables
from benchmarks.entrant import Entrant
from benchmarks.models import MODELS, BenchmarkModel, Dims, model_path
from benchmarks.provenance import collect, command
from benchmarks.remote import RemoteError
from benchmarks.results import ShapesReport, VisitResult
from benchmarks.summary import geometric_mean

SEED = 40
TURN = 7
"""Visits after which it is the next engine's turn: few, because machines drift, and more than one,
because a server's caches hold what it serves. Shares no factor with the visits per new shape that
are usual, so that first visits take every place in a turn."""

PAUSE_SECONDS = 0.05
"""Before each turn: thread pools spin for a while."""

FIRST_OVER_LATER, EXTRA_SECONDS = 1.05, 50e-6
"""What a shape may cost more the first time: one of the two."""

MEANS = {"onnxruntime": 1.3, "openvino": 2.0}
"""Least geometric means of whole streams against the others."""

WORST = 0.97
"""Least ratio of any one stream against either."""


def random_shapes(model: BenchmarkModel, count: int) -> list[Dims]:
    """Up to `count` different bindings of the model's symbolic dims, the same in every run."""
    rng = np.random.default_rng(SEED)
    possible = int(np.prod([high - low + 1 for low, high in model.ranges.values()]))
    shapes: dict[tuple[int, ...], Dims] = {}
    while len(shapes) < min(count, possible):
        dims = {
            name: int(rng.integers(low, high + 1)) for name, (low, high) in model.ranges.items()
        }
        shapes.setdefault(tuple(dims.values()), dims)
    return list(shapes.values())


def visits(shapes: int, later: int) -> list[int]:
    """Indices of shapes in the order of their visits: each `later` times more after the first.

    With every new shape come later visits to the one before the last, and so on, so that all visits
    to a shape meet the machine at one speed; none is visited twice in a row where there are others.
    """
    lags = range(0, 2 * later + 1, 2)
    last = shapes + lags[-1]
    return [step - lag for step in range(last) for lag in lags if 0 <= step - lag < shapes]


def measure(
    model: BenchmarkModel,
    shapes: Sequence[Dims],
    passes: int,
    threads: int,
    cache: Path,
    timeout: float,
    report: Callable[[str], None],
) -> list[VisitResult]:
    """Let every engine visit every shape once and `passes` times more, taking turns."""
    path = model_path(model, cache / "models")
    with ExitStack() as stack:
        visitors = []
        for name in engines.FP32_ENGINES:
            report(f"{model.title}: loading {name}")
            code = str(cache / "code") if name == engines.OURS else None
            setup = engines.EngineSetup(name, threads, cache_dir=code)
            visitors.append(
                Visitor(stack.enter_context(closing(Entrant(setup, model, path, timeout))))
            )
        order = visits(len(shapes), passes)
        for number, start in enumerate(range(0, len(order), TURN)):
            report(f"{model.title}: {start} of {len(order)} visits")
            first = number % len(visitors)
            before = shapes[order[start - 1]] if start else model.tiny
            for visitor in (*visitors[first:], *visitors[:first]):
                sleep(PAUSE_SECONDS)
                visitor.walk(shapes, order[start : start + TURN], before)
        return [visitor.result(model, shapes) for visitor in visitors]


class Visitor:
    """One engine walking through the shapes."""

    def __init__(self, entrant: Entrant) -> None:
        self.entrant = entrant
        self._visits: dict[int, list[float]] = {}
        self._loaded = entrant.load() is not None
        self._failure = entrant.failure
        self._resident = entrant.resident() if self._loaded else 0

    def walk(self, shapes: Sequence[Dims], order: Sequence[int], before: Dims) -> None:
        """Visit shapes in this order; stops for good at the first failure.

        The visit `before` does not count: caches then hold what other engines worked on.
        """
        try:
            if self._failure is None:
                self.entrant.visit(before)
            for index in order:
                if self._failure is None:
                    seconds = self.entrant.visit(shapes[index])
                    self._visits.setdefault(index, []).append(seconds)
        except RemoteError as error:
            self._failure = str(error)

    def result(self, model: BenchmarkModel, shapes: Sequence[Dims]) -> VisitResult:
        """What the walks found."""
        complete = self._failure is None
        visits = [self._visits[index] for index in range(len(shapes))] if complete else []
        return VisitResult(
            model=model.title,
            engine=self.entrant.name,
            shapes=[dict(dims) for dims in shapes],
            first=[times[0] for times in visits],
            later=[times[1:] for times in visits],
            resident_before=self._resident,
            resident_after=self.entrant.resident() if complete else 0,
            failure=self._failure,
        )


def first_over_later(result: VisitResult) -> list[float]:
    """Per shape, the first visit's time over the median of the later ones."""
    pairs = zip(result.first, result.later, strict=True)
    return [first / statistics.median(later) for first, later in pairs]


def extra_seconds(result: VisitResult) -> list[float]:
    """Per shape, the first visit's time less the median of the later ones."""
    pairs = zip(result.first, result.later, strict=True)
    return [first - statistics.median(later) for first, later in pairs]


def stream_seconds(result: VisitResult) -> float:
    """Seconds of the whole stream of first visits."""
    return sum(result.first)


def first_cost(result: VisitResult) -> tuple[float, float]:
    """First over later visits, the geometric mean over shapes; and the median of the seconds that
    the first visit takes more."""
    mean = geometric_mean(first_over_later(result))
    assert mean is not None
    return mean, statistics.median(extra_seconds(result))


def show(out: Console, results: Sequence[VisitResult]) -> None:
    """Print one row per model and engine."""
    table = tables.grid(
        "Random shapes (first visit over the median of later ones)",
        *("model", "engine", "shapes", "stream", "first/later", "median extra", "worst extra"),
        *("memory growth", "Packhorse is faster"),
        left=2,
    )
    gains = {(r.model, peer): gain for r, peer, gain in speedups(results)}
    for result in results:
        if result.failure is not None:
            table.add_row(result.model, result.engine, "[red]failed[/]", *[""] * 6)
            continue
        mean, extra = first_cost(result)
        gain = gains.get((result.model, result.engine))
        table.add_row(
            result.model,
            result.engine,
            str(len(result.shapes)),
            tables.duration(stream_seconds(result)),
            tables.ratio(mean),
            f"{extra * 1e6:.0f} µs",
            f"{max(extra_seconds(result)) * 1e6:.0f} µs",
            tables.size(result.resident_after - result.resident_before),
            "" if gain is None else tables.ratio(gain),
        )
        if result.engine == engines.FP32_ENGINES[-1]:
            table.add_section()
    out.print(table)
    tables.show_reasons(
        out, ((r.engine, r.model, r.failure) for r in results if r.failure is not None)
    )


def speedups(results: Sequence[VisitResult]) -> list[tuple[VisitResult, str, float]]:
    """Our result, a peer, and how many times faster our whole stream is, wherever both ran."""
    ours = {r.model: r for r in results if r.engine == engines.OURS and r.failure is None}
    return [
        (ours[r.model], r.engine, stream_seconds(r) / stream_seconds(ours[r.model]))
        for r in results
        if r.engine != engines.OURS and r.failure is None and r.model in ours
    ]


def show_goals(out: Console, results: Sequence[VisitResult]) -> None:
    """Print what is to be reached, what was, and where it was missed."""
    table = tables.grid("Goals", "goal", "reached", "missed by")
    ours = [r for r in results if r.engine == engines.OURS and r.failure is None]
    costs = {result.model: first_cost(result) for result in ours}
    missed = [
        f"{model} ({tables.ratio(mean)}, {extra * 1e6:.0f} µs)"
        for model, (mean, extra) in costs.items()
        if mean > FIRST_OVER_LATER and extra > EXTRA_SECONDS
    ]
    goal = f"a first visit costs at most {FIRST_OVER_LATER}x or {EXTRA_SECONDS * 1e6:.0f} µs more"
    table.add_row(goal, f"{len(costs) - len(missed)} of {len(costs)} models", ", ".join(missed))
    found = speedups(results)
    for peer, least in MEANS.items():
        gains = {result.model: gain for result, name, gain in found if name == peer}
        mean = geometric_mean(gains.values())
        short = "" if mean is None or mean >= least else "the mean"
        table.add_row(f"streams {least}x {peer} in the geometric mean", tables.ratio(mean), short)
        slow = [f"{m} ({tables.ratio(gain)})" for m, gain in gains.items() if gain < WORST]
        worst = tables.ratio(min(gains.values(), default=None))
        table.add_row(f"no stream below {WORST}x {peer}", worst, ", ".join(slow))
    out.print(table)


def part_of(shapes: Sequence[Dims], part: str) -> Sequence[Dims]:
    """The shapes of part "2/3", the second third; raises typer.BadParameter."""
    try:
        number, parts = (int(each) for each in part.split("/"))
    except ValueError:
        number, parts = 0, 0
    if not 1 <= number <= parts:
        raise typer.BadParameter(f"{part!r} is no part such as 2/3", param_hint="--part")
    bounds = [len(shapes) * place // parts for place in (number - 1, number)]
    return shapes[bounds[0] : bounds[1]]


def merged(parts: Sequence[VisitResult]) -> VisitResult:
    """Parts of one engine's stream as one result; memory is that of the part that grew most."""
    grew = max(parts, key=lambda part: part.resident_after - part.resident_before)
    return grew.model_copy(
        update={
            "shapes": [dims for part in parts for dims in part.shapes],
            "first": [seconds for part in parts for seconds in part.first],
            "later": [seconds for part in parts for seconds in part.later],
            "failure": next((part.failure for part in parts if part.failure is not None), None),
        }
    )


def joined(reports: Sequence[ShapesReport]) -> list[VisitResult]:
    """Results of several runs, parts of a stream together, models in the order of the registry."""
    found: dict[tuple[str, str], list[VisitResult]] = {}
    for report in reports:
        for result in report.results:
            found.setdefault((result.model, result.engine), []).append(result)
    order = {model.title: place for place, model in enumerate(MODELS.values())}
    return sorted(map(merged, found.values()), key=lambda result: order[result.model])


def main(
    models: options.Models = None,
    shapes: Annotated[int, typer.Option(min=2, help="Shapes per model.")] = 40,
    passes: Annotated[int, typer.Option(min=1, help="Later visits to each shape.")] = 5,
    part: Annotated[str, typer.Option(help="Which part of the streams, such as 2/3.")] = "1/1",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    json_file: options.JsonFile = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(help="Show what earlier runs kept with --json instead of measuring."),
    ] = None,
    page: pages.PageFile = None,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
    timeout: options.Timeout = 600.0,
) -> None:
    """Send streams of random shapes through every engine in one run."""
    out = tables.console()
    if join:
        reports = [ShapesReport.model_validate_json(path.read_bytes()) for path in join]
        if len({report.threads for report in reports}) > 1:
            raise typer.BadParameter("the runs differ in threads", param_hint="--join")
        last = reports[-1].provenance
        tables.show_provenance(out, last.model_copy(update={"command": command()}))
        commits = sorted({report.provenance.commit or "none" for report in reports})
        out.print(f"{len(reports)} runs, at the commits {', '.join(commits)}")
        results = joined(reports)
    else:
        reports = []
        results = []
        provenance = collect()
        tables.show_provenance(out, provenance)
        with Status("", console=out) as status:
            for model in options.chosen_models(models):
                stream = part_of(random_shapes(model, 3 if quick else shapes), part)
                later = 1 if quick else passes
                found = measure(model, stream, later, threads, cache, timeout, status.update)
                results.extend(found)
        reports.append(ShapesReport(provenance=provenance, threads=threads, results=results))
    out.print(f"{reports[-1].threads} threads")
    show(out, results)
    show_goals(out, results)
    report = reports[-1].model_copy(update={"results": results})
    options.write_text(json_file, report.model_dump_json(indent=1))
    if page is not None:
        introduction = (
            "Written by `python -m benchmarks.shapes --page`; see [benchmarks](benchmarks.md)",
            "for how figures are taken and [shapes](shapes.md) for why no shape is special.",
        )
        printed = out.export_text()
        options.write_text(page, pages.markdown("Random shapes", introduction, printed))


if __name__ == "__main__":
    typer.run(main)

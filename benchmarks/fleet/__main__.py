"""`python -m benchmarks.fleet`: the fleet's figures, each beside its goal.

The machine must have two cores that nobody else uses. Every part starts its own processes and ends
them; whoever is compared runs in turns, from the same client.
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import options, tables
from benchmarks.fleet import crossing as crossings
from benchmarks.fleet import ray_fleet, scaleup, servers
from benchmarks.fleet.serve_application import ServeSettings
from benchmarks.fleet.table import Figure, show
from benchmarks.provenance import collect


@dataclass(frozen=True)
class Effort:
    """How much to measure; no `rounds` are what each part takes by default.

    Ray Serve is compared at the best of `settings`, which is looked for first.
    """

    quick: bool = False
    rounds: int | None = None
    settings: tuple[ServeSettings, ...] = servers.SERVE_SETTINGS

    def turns(self, usual: int) -> int:
        """Rounds of a part that usually takes so many."""
        return 1 if self.quick else self.rounds or usual


Measure = Callable[[Path, Path, Effort], list[Figure]]


def added(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
    """What the way over a worker adds to a request, for the MLP and for a 25 MB image."""
    figures = []
    for name, label, goal in (("mlp", "MLP", 1e-3), ("image", "1080p image", None)):
        place = folder / name
        embedded, fleet = servers.one_request_at_a_time(place, cache, name, rounds=effort.turns(5))
        middle = statistics.median(f.p50 - e.p50 for e, f in zip(embedded, fleet, strict=True))
        base = statistics.median(e.p50 for e in embedded)
        figures.append(
            Figure(
                f"{label} over HTTP, p50 added by the fleet path",
                tables.duration(middle),
                tables.duration(goal) if goal else "",
                middle <= goal if goal else None,
                f"embedded {tables.duration(base)}, {len(embedded)} rounds in turns",
            )
        )
    return figures


def crossing(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
    """A 25 MB image through the channel, and back a number."""
    figures = []
    os.environ["PACKHORSE_FLEET_SECRET"] = crossings.SECRET
    for kind, name, label, goal in (
        ("ipc", "received", "where the gateway puts bodies together", 4e-3),
        ("ipc", "1080p", "copied there from elsewhere", None),
        ("tcp", "1080p", "over tcp, encrypted", None),
    ):
        place = folder / f"{kind}-{name}"
        place.mkdir()
        seconds = crossings.crossing(place, cache, kind, name, 5 if effort.quick else 60)
        middle, small, one, every = (
            crossings.middle(seconds[each]) for each in (name, "small", "one", "all")
        )
        note = (
            f"minimum {tables.duration(min(seconds[name]))}; next to nothing "
            f"{tables.duration(small)}; a mere copy by one core {tables.duration(one)}, "
            f"by all {tables.duration(every)}"
        )
        figures.append(
            Figure(
                f"1080p image, {label}, p50",
                tables.duration(middle),
                tables.duration(goal) if goal else "",
                middle <= goal if goal else None,
                note,
            )
        )
    return figures


def scaling(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
    """Two workers of one core against one."""
    one, two = servers.one_and_two(folder, cache, rounds=effort.turns(3))
    best = [max(f.answers for f in side) for side in (one, two)]
    ratio = statistics.median(t.answers / o.answers for o, t in zip(one, two, strict=True))
    note = f"{best[0]:.0f} and {best[1]:.0f} answers/s, sequences of 128 tokens"
    return [
        Figure("encoder, two workers over one", tables.ratio(ratio), "1.75x", ratio >= 1.75, note)
    ]


def against_serve(model: str, goal: float | None, lengths: str = "") -> Measure:
    """Ray Serve with `@serve.batch` and onnxruntime on the same cores, at its best settings."""

    def measure(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
        path, inputs = servers.prepared(model, cache)
        requests = servers.mixed() if lengths else [inputs]
        seconds = servers.SECONDS[model]
        figures = []
        settings = effort.settings[0]
        if effort.rounds == 0 or (len(effort.settings) > 1 and not effort.quick):
            found = servers.each_setting(
                folder / "best", cache, path, requests, seconds / 2, effort.settings
            )
            settings = max(found, key=lambda one: found[one])
            figures = [
                Figure(f"{model}{lengths} on Ray Serve", f"{found[one]:.0f}/s", "", None, str(one))
                for one in found
            ]
        if effort.rounds == 0:
            return figures
        ours, theirs = servers.ours_and_serve(
            folder, cache, path, requests, seconds, effort.turns(3), settings
        )
        ratio = statistics.median(o.answers / t.answers for o, t in zip(ours, theirs, strict=True))
        best = [max(f.answers for f in side) for side in (ours, theirs)]
        figures.append(
            Figure(
                f"{model}{lengths} over Ray Serve",
                tables.ratio(ratio),
                f"{goal}x" if goal else "",
                ratio >= goal if goal else None,
                f"{best[0]:.0f} and {best[1]:.0f} answers/s; theirs: {settings}",
            )
        )
        return figures

    return measure


def scale_up(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
    """One more worker process, up to its first answer."""
    figures = []
    for model in ("mlp", "encoder"):
        place = folder / model
        place.mkdir()
        seconds = scaleup.scale_up(model, place, cache, effort.turns(5))
        middle = statistics.median(seconds)
        figures.append(
            Figure(
                f"{model}: start of a worker process to its first answer",
                tables.duration(middle),
                "4 s",
                middle <= 4,
                f"minimum {tables.duration(min(seconds))}, warm caches",
            )
        )
    return figures


def under_ray(folder: Path, cache: Path, effort: Effort) -> list[Figure]:
    """One more worker through Serve's REST API, and a successor of one that is killed."""
    times = ray_fleet.scale_up_and_recovery("mlp", folder, cache, effort.turns(3))
    figures = []
    for label, goal, seconds in (
        ("request for one more worker to its first answer", 4, times.ups),
        ("SIGKILL of a worker to the first answer of who stands in", 3, times.recoveries),
        ("the same as soon as its standby has been started", 3, times.early),
        ("SIGKILL of a worker to Serve's own replica in its place", None, times.replacements),
    ):
        middle = statistics.median(seconds)
        note = f"under Ray Serve, {len(seconds)} rounds, most {tables.duration(max(seconds))}"
        figures.append(
            Figure(
                label,
                tables.duration(middle),
                f"{goal} s" if goal else "",
                middle <= goal if goal else None,
                note,
            )
        )
    return figures


PARTS: dict[str, Measure] = {
    "added": added,
    "crossing": crossing,
    "scaling": scaling,
    "serve-mlp": against_serve("mlp", 5.0),
    "serve-encoder": against_serve("encoder", 1.3),
    "serve-mixed": against_serve("encoder", None, ", 5 to 120 tokens,"),
    "scale-up": scale_up,
    "ray": under_ray,
}


def main(
    parts: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(PARTS)}.")] = ",".join(
        PARTS
    ),
    quick: options.Quick = False,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Of each part; 0 only looks for the best settings.")
    ] = None,
    settings: Annotated[
        str, typer.Option(help="Which of Ray Serve's settings to try, by number.")
    ] = ",".join(str(number) for number in range(len(servers.SERVE_SETTINGS))),
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Measure the fleet and print every figure beside its goal."""
    chosen = [part.strip() for part in parts.split(",")]
    if unknown := set(chosen) - PARTS.keys():
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--parts")
    try:
        tried = tuple(servers.SERVE_SETTINGS[int(number)] for number in settings.split(","))
    except (ValueError, IndexError):
        raise typer.BadParameter(f"{settings!r}", param_hint="--settings") from None
    effort = Effort(quick, rounds, tried)
    out = tables.console()
    tables.show_provenance(out, collect())
    cache.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for part in chosen:
        with tempfile.TemporaryDirectory(prefix="packhorse-fleet-") as folder:
            figures += PARTS[part](Path(folder), cache, effort)
    show(out, figures)


if __name__ == "__main__":
    typer.run(main)

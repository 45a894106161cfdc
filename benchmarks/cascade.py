"""The cascade of `examples.mtcnn` on photos of mixed sizes: ``python -m benchmarks.cascade``.

Every engine runs the same Python around the same networks, in a process of its own, and they take
turns photo by photo. Reading photos is not timed; pyramid, crops and suppression are.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from pydantic import BaseModel
from rich.console import Console
from rich.status import Status

from benchmarks import engines, options, tables
from benchmarks.provenance import Provenance, collect
from benchmarks.remote import Remote
from benchmarks.summary import geometric_mean
from examples.mtcnn.__main__ import NETWORKS
from examples.mtcnn.cascade import Array, Cascade, Networks, Run

HEIGHTS = (480, 720, 1080)
PAUSE_SECONDS = 0.05
SEED = 7
LARGEST_SHIFT = 1e-3
"""Most that a box's edge may differ, in units of the photo's width."""


@dataclass
class Host:
    """What runs in the process of an engine."""

    setup: engines.EngineSetup
    models: Path
    smallest_face: int
    _photos: dict[tuple[str, int], Image.Image] = field(default_factory=dict)
    _inside: float = 0.0

    def load(self) -> None:
        """Load the networks."""
        runs = [self._run(self.models / f"{name}.onnx") for name in NETWORKS]
        self._cascade = Cascade(Networks(*runs), self.smallest_face)

    def _run(self, path: Path) -> Run:
        loaded = engines.load(path, self.setup)

        def run(inputs: dict[str, Array]) -> dict[str, Array]:
            begin = time.perf_counter()
            outputs = dict(loaded.run(inputs))
            self._inside += time.perf_counter() - begin
            return outputs

        return run

    def visit(self, path: Path, height: int) -> tuple[float, float, dict[str, Any]]:
        """Seconds of one photo, those inside the networks, and what was found."""
        image = self._photo(path, height)
        self._inside = 0.0
        begin = time.perf_counter()
        faces = self._cascade(image)
        seconds = time.perf_counter() - begin
        found = {"counts": faces.counts, "boxes": faces.boxes, "embeddings": faces.embeddings}
        return seconds, self._inside, found

    def _photo(self, path: Path, height: int) -> Image.Image:
        if (path.name, height) not in self._photos:
            with Image.open(path) as photo:
                size = round(photo.width * height / photo.height), height
                self._photos[path.name, height] = photo.convert("RGB").resize(size)
        return self._photos[path.name, height]


class CascadeRow(BaseModel):
    """One engine on one photo at one height: seconds per visit, and those inside the networks."""

    engine: str
    photo: str
    height: int
    seconds: list[float]
    inside: list[float]
    counts: tuple[int, int, int]
    equal: bool


class CascadeReport(BaseModel):
    """Everything measured."""

    provenance: Provenance
    threads: int
    rows: list[CascadeRow]


def measure(
    photos: Sequence[Path], hosts: dict[str, Remote], rounds: int, status: Status
) -> list[CascadeRow]:
    """Visit every photo at every height `rounds` times, in shuffled order, engines by turns."""
    rng = np.random.default_rng(SEED)
    visits = [(path, height) for path in photos for height in HEIGHTS]
    rows: dict[tuple[str, str, int], CascadeRow] = {}
    names = list(hosts)
    for number in range(rounds + 1):
        status.update(f"round {number} of {rounds}")
        for index in rng.permutation(len(visits)):
            path, height = visits[index]
            answers: dict[str, Any] = {}
            for name in names:
                time.sleep(PAUSE_SECONDS)
                seconds, inside, answers[name] = hosts[name].call("visit", path, height)
                row = rows.setdefault(
                    (name, path.name, height),
                    CascadeRow(
                        engine=name,
                        photo=path.name,
                        height=height,
                        seconds=[],
                        inside=[],
                        counts=answers[name]["counts"],
                        equal=True,
                    ),
                )
                if number:  # the first round meets every shape for the first time
                    row.seconds.append(seconds)
                    row.inside.append(inside)
            width = max(1.0, float(np.abs(answers[engines.ORACLE]["boxes"]).max(initial=1)))
            for name in names:
                rows[name, path.name, height].equal &= _equal(
                    answers[name], answers[engines.ORACLE], width
                )
            names = [*names[1:], names[0]]
    return list(rows.values())


def _equal(found: dict[str, Any], reference: dict[str, Any], width: float) -> bool:
    return (
        found["counts"] == reference["counts"]
        and bool(np.abs(found["boxes"] - reference["boxes"]).max(initial=0) / width < LARGEST_SHIFT)
        and bool(np.abs(found["embeddings"] - reference["embeddings"]).max(initial=0) < 1e-2)
    )


def show(out: Console, rows: Sequence[CascadeRow]) -> None:
    """Print one line per height and engine, then the whole mix."""
    table = tables.grid(
        "Faces found and embedded (medians, summed over the photos)",
        *("height", "engine", "end to end", "in the networks", "equal", "Packhorse is faster"),
        left=2,
    )
    totals: dict[tuple[str, int], tuple[float, float]] = {}
    for row in rows:
        end, inside = totals.get((row.engine, row.height), (0.0, 0.0))
        totals[row.engine, row.height] = (
            end + statistics.median(row.seconds),
            inside + statistics.median(row.inside),
        )
    ratios: dict[str, list[float]] = {}
    for (name, height), (end, inside) in sorted(totals.items(), key=lambda item: item[0][1]):
        same = all(row.equal for row in rows if (row.engine, row.height) == (name, height))
        gain = end / totals[engines.OURS, height][0]
        if name != engines.OURS:
            ratios.setdefault(name, []).append(gain)
        table.add_row(
            f"{height}p",
            name,
            tables.duration(end),
            tables.duration(inside),
            "yes" if same else "[red]no[/]",
            "" if name == engines.OURS else tables.ratio(gain),
        )
    out.print(table)
    ours = sum(end for (name, _), (end, _) in totals.items() if name == engines.OURS)
    for name, gains in ratios.items():
        whole = sum(end for (other, _), (end, _) in totals.items() if other == name)
        out.print(
            f"Mixed sizes against {name}: {tables.ratio(whole / ours)}, "
            f"geometric mean {tables.ratio(geometric_mean(gains))}"
        )


def main(
    models: Annotated[
        Path, typer.Option(envvar="PACKHORSE_MODELS", help="Folder of the networks and photos.")
    ] = Path("../shared/models"),
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: options.Rounds = 5,
    smallest_face: Annotated[int, typer.Option(min=12, help="In pixels.")] = 20,
    json_file: options.JsonFile = None,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Time the cascade on every engine in one run, results compared."""
    out = tables.console()
    photos = sorted((models / "mtcnn/inputs").iterdir())
    provenance = collect()
    tables.show_provenance(out, provenance)
    with ExitStack() as stack, Status("", console=out) as status:
        hosts = {}
        for name in engines.FP32_ENGINES:
            status.update(f"loading {name}")
            code = str(cache / "code") if name == engines.OURS else None
            setup = engines.EngineSetup(name, threads, cache_dir=code)
            hosts[name] = stack.enter_context(Remote(partial(Host, setup, models, smallest_face)))
            hosts[name].call("load")
        rows = measure(photos, hosts, rounds, status)
    show(out, rows)
    report = CascadeReport(provenance=provenance, threads=threads, rows=rows)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)

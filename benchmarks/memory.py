"""Resident memory over many requests of random shapes: ``python -m benchmarks.memory``.

Ours and onnxruntime answer the same requests, in processes of their own. A stream of shapes that
never repeats must not leave memory behind: arenas, bound programs and allocators' pools are
bounded. The processes are set up as those of a server are (`engine.allocator`), both of them.
Memory is read after every request: what a request leaves behind is the median over many, and the
most that any left behind is shown beside it.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from pydantic import BaseModel
from rich.status import Status

from benchmarks import engines, options, tables
from benchmarks.machine import resident_bytes
from benchmarks.models.detection import pnet
from benchmarks.models.transformer import narrow_encoder
from benchmarks.provenance import Provenance, collect
from benchmarks.remote import Remote, RemoteError
from engine.allocator import keep_little

SEED = 11
SETTLED = 500
"""Requests after which memory should have stopped growing."""

SAMPLES = 20
ENGINES = (engines.OURS, "onnxruntime")


def sentences(rng: np.random.Generator) -> engines.Arrays:
    """Batch 1-8, length 1-512."""
    shape = int(rng.integers(1, 9)), int(rng.integers(1, 513))
    return {
        "ids": rng.integers(0, 1000, shape),
        "mask": np.ones(shape, np.int64),
        "types": np.zeros(shape, np.int64),
    }


def images(rng: np.random.Generator) -> engines.Arrays:
    """Batch 1-8, height and width 32-1100."""
    batch, height, width = (int(rng.integers(a, b)) for a, b in ((1, 9), (32, 1101), (32, 1101)))
    return {"image": np.full((batch, 3, height, width), rng.random(), np.float32)}


STREAMS = {
    "sentences": (narrow_encoder, sentences),
    "images": (pnet, images),
    "coarse images": (partial(pnet, stride=2), images),
}
"""Network and requests. P-Net takes most of an hour for 10,000 images; with strides of 2, it meets
the same requests, binds as many programs, and takes a tenth of the time."""


@dataclass
class Host:
    """What runs in the process of an engine."""

    setup: engines.EngineSetup
    path: Path
    stream: str

    def load(self) -> None:
        """Load the model."""
        keep_little()
        self._engine = engines.load(self.path, self.setup)
        self._rng = np.random.default_rng(SEED)

    def answer(self, requests: int) -> tuple[int, int]:
        """Answer so many requests; physical bytes of the process after a request, the median and
        the most."""
        draw = STREAMS[self.stream][1]
        sizes = []
        for _ in range(requests):
            self._engine.run(draw(self._rng))
            sizes.append(resident_bytes())
        return int(np.median(sizes)), max(sizes)


class MemoryRow(BaseModel):
    """One engine on one stream: bytes of the process after each of the requests up to a number and
    since the number before, the median and the most."""

    stream: str
    engine: str
    requests: list[int]
    resident: list[int]
    highest: list[int]

    @property
    def growth(self) -> float:
        """Largest later median over that of the first 500 requests, or the same of the highest
        sizes where that is more."""
        settled = self.requests.index(SETTLED)
        return max(max(sizes[settled:]) / sizes[settled] for sizes in (self.resident, self.highest))


class MemoryReport(BaseModel):
    """Everything measured."""

    provenance: Provenance
    rows: list[MemoryRow]


def steps(requests: int) -> Iterator[int]:
    """Requests between samples: 500 first, then equal parts."""
    yield min(SETTLED, requests)
    part = max(1, (requests - SETTLED) // SAMPLES)
    left = requests - SETTLED
    while left > 0:
        yield min(part, left)
        left -= part


def measure(
    stream: str,
    setup: engines.EngineSetup,
    requests: int,
    status: Status,
    so_far: Callable[[MemoryRow], None] = lambda row: None,
) -> MemoryRow:
    """Send the stream through one engine; ``so_far`` is told after every sample."""
    row = MemoryRow(stream=stream, engine=setup.name, requests=[], resident=[], highest=[])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{stream}.onnx"
        onnx.save(STREAMS[stream][0](), path)
        with Remote(partial(Host, setup, path, stream), timeout=3600) as remote:
            remote.call("load")
            done = 0
            for step in steps(requests):
                middle, highest = remote.call("answer", step)
                row.resident.append(middle)
                row.highest.append(highest)
                done += step
                row.requests.append(done)
                status.update(f"{stream}, {setup.name}: {done} of {requests} requests")
                so_far(row)
    return row


def main(
    requests: Annotated[int, typer.Option(min=SETTLED, help="Requests per stream.")] = 10_000,
    streams: Annotated[str, typer.Option(help=f"Of {', '.join(STREAMS)}.")] = "sentences,images",
    chosen: Annotated[str, typer.Option("--engines", help="Comma-separated.")] = ",".join(ENGINES),
    threads: Annotated[int, typer.Option(min=1)] = 2,
    json_file: options.JsonFile = None,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Measure resident memory over streams of random shapes."""
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    table = tables.grid(
        "Resident memory over random shapes",
        *("stream", "engine", "requests", "first 500", "last", "most", "largest over first 500"),
        left=2,
    )
    rows: list[MemoryRow] = []

    def keep(*unfinished: MemoryRow) -> None:
        """Write what is known: a stream of images takes most of an hour."""
        report = MemoryReport(provenance=provenance, rows=[*rows, *unfinished])
        options.write_text(json_file, report.model_dump_json(indent=1))

    with Status("", console=out) as status:
        for stream in streams.split(","):
            for name in chosen.split(","):
                code = str(cache / "code") if name == engines.OURS else None
                setup = engines.EngineSetup(name, threads, cache_dir=code)
                try:
                    row = measure(stream, setup, requests, status, keep)
                except RemoteError as error:
                    table.add_row(stream, name, f"[red]{error}[/]", *[""] * 4)
                    continue
                rows.append(row)
                settled = row.resident[row.requests.index(SETTLED)]
                sizes = map(tables.size, (settled, row.resident[-1], max(row.highest)))
                table.add_row(stream, name, str(row.requests[-1]), *sizes, tables.ratio(row.growth))
    out.print(table)
    keep()


if __name__ == "__main__":
    typer.run(main)

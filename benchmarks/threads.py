"""How threads behave beside others: ``python -m benchmarks.threads``.

- *alternating*: two models in turn in one process, against the sum of their times alone;
- *idle*: CPU time that an engine uses in a second without requests;
- *competitor*: the slowest of a hundred calls while a busy process sits on one CPU;
- *throughput*: a batch split by rows over threads, against one gang that shares each operation.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import BaseModel

import engine
from benchmarks import options, tables
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.provenance import Provenance, collect

Call = Callable[[], Any]
PAIR = (
    ("mobilenet_v2", {"batch": 1, "height": 224, "width": 224}),
    ("encoder", {"batch": 1, "length": 16}),
)
"""Two networks whose calls take milliseconds, so that waking and waiting would show."""

BATCHED = (
    ("mobilenet_v2", {"batch": 8, "height": 224, "width": 224}),
    ("encoder", {"batch": 8, "length": 16}),
    ("resnet50", {"batch": 8, "height": 224, "width": 224}),
)


class Figure(BaseModel):
    """One measured figure with its bound, `unit` is ``x`` for ratios."""

    name: str
    value: float
    unit: str
    bound: float


class ThreadsReport(BaseModel):
    """All figures, and where they come from."""

    provenance: Provenance
    threads: int
    figures: list[Figure]


def _least(calls: list[Call], rounds: int, number: int) -> list[float]:
    """Least median of each call over rounds in which they take turns."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for place, call in enumerate(calls):
            call()
            times = []
            for _ in range(number):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            best[place] = min(best[place], float(np.median(times)))
    return best


def _burn(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    while True:
        pass


def _competing(call: Call, number: int) -> float:
    """99th percentile over median of a call beside a busy process."""
    busy = multiprocessing.get_context("spawn").Process(
        target=_burn, args=(engine.cpu.machine().cpus[0],), daemon=True
    )
    busy.start()
    try:
        time.sleep(0.5)
        times = []
        for _ in range(number):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    finally:
        busy.kill()
        busy.join()
    return float(np.quantile(times, 0.99) / np.median(times))


def _idle(call: Call) -> float:
    """CPU milliseconds per second after a call."""
    call()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(1)
    return (time.process_time() - before) * 1000


def main(
    threads: Annotated[int, typer.Option(min=2, help="Threads of the engine.")] = 2,
    rounds: options.Rounds = 5,
    json_file: options.JsonFile = None,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Measure and print; a bound that is missed is marked."""
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    rounds, number = (1, 3) if quick else (rounds, 40)

    def loaded(name: str, dims: dict[str, int], **settings: Any) -> Call:
        model = MODELS[name]
        session = engine.load(
            model_path(model, cache), threads=threads, cache_dir=cache, **settings
        )
        inputs = case_inputs(model, dims)
        return lambda: session.run(inputs)

    first, second = (loaded(name, dims) for name, dims in PAIR)
    alone = _least([first, second], rounds, number)
    both = _least([lambda: (first(), second())], rounds, number)[0]
    figures: list[Figure] = []

    def show(name: str, value: float, unit: str, bound: float) -> None:
        figures.append(Figure(name=name, value=value, unit=unit, bound=bound))
        text = f"{name:<55} {value:8.2f} {unit:<5} (bound {bound:g})"
        out.print(f"[red]{text} missed[/]" if value > bound else text)

    show("alternating / sum alone", both / sum(alone), "x", 1.1)
    show("idle", _idle(first), "ms/s", 2.0)
    show("competitor: p99 / median", _competing(first, number * 5), "x", 3.0)
    for name, dims in BATCHED[: 1 if quick else None]:
        gang, rows = loaded(name, dims), loaded(name, dims, throughput=True)
        shared, split = _least([gang, rows], rounds, max(number // 8, 2))
        title = f"throughput / one gang: {MODELS[name].title}, batch {dims['batch']}"
        show(title, split / shared, "x", 1.0)
    report = ThreadsReport(provenance=provenance, threads=threads, figures=figures)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)

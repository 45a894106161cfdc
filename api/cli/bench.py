"""`packhorse bench`: latency of the user's own model on the user's own shapes."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

import engine
from api.cli import options, peers, terminal
from api.cli.errors import UsageError
from api.cli.images import Fit
from api.cli.inputs import parse_shapes, random_inputs, read_inputs
from engine import cpu

Array = NDArray[Any]
PAUSE_SECONDS = 0.05
"""Rest before each block: other engines' thread pools spin on for a while after their last call
and would take the CPUs from whoever is measured next."""


def bench(
    model: options.Model,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE[,ENGINE]",
            help=f"Also measure these, where installed: {', '.join(peers.NAMES)}.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x224x224",
            help="Shape of an input; needed where the model leaves more than its first "
            "dimension open. Values are random.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="Measure on these values instead of random ones.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            "-t",
            metavar="N[,N]",
            envvar="PACKHORSE_THREADS",
            help="Thread counts to measure; default: all usable CPUs.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the engines take turns.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="Length of each engine's block in a round.")
    ] = 0.3,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    fp32_node: options.Kept = None,
    bf16_first: options.First = None,
) -> None:
    """Measure the latency of a model, alone or against other engines.

    The engines take turns in short blocks over several rounds, so that a change of the machine's
    speed meets all of them. Outputs are compared first. Ratios are of medians: above 1, Packhorse
    is faster.

    Example: packhorse bench model.onnx --against onnxruntime,openvino --shape x=1x3x224x224
    """
    names = [name.strip() for name in against.split(",") if name.strip()] if against else []
    counts = _thread_counts(threads)
    if not Path(model).is_file():
        raise UsageError(f"{model}: no such file")
    for count in counts:
        chosen = options.precision(precision, fp32_node, bf16_first)
        session = terminal.load(model, count, isa, chosen)
        try:
            arrays = _arrays(session, inputs or (), shape or ())
            runs: dict[str, peers.Run] = {"packhorse": functools.partial(session.run, arrays)}
            for name in names:
                runs[name] = peers.peer(name, Path(model), count, arrays)
            notes = _compare(runs)
            times = _measure(runs, rounds, seconds)
        finally:
            session.close()
        _print(count, arrays, times, notes)


def _arrays(
    session: engine.Session, inputs: Sequence[str], shape: Sequence[str]
) -> dict[str, Array]:
    given = read_inputs(session, inputs, Fit())
    return random_inputs(session, parse_shapes(shape), skip=frozenset(given)) | given


def _thread_counts(text: str | None) -> list[int]:
    if text is None:
        return [cpu.machine().threads]
    counts = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(counts) != len(text.split(",")) or min(counts, default=0) < 1:
        raise UsageError(f"--threads {text!r}: give counts such as 1,2")
    return counts


def _compare(runs: dict[str, peers.Run]) -> dict[str, str]:
    """Largest difference of each peer's outputs from ours, as a text per peer."""
    ours = runs["packhorse"]()
    notes = {}
    for name, run in runs.items():
        if name != "packhorse":
            theirs = run()
            shared = [key for key in ours if key in theirs and ours[key].dtype.kind == "f"]
            differences = [_difference(ours[key], theirs[key]) for key in shared]
            notes[name] = f"{max(differences):.1e}" if differences else "no float outputs"
    return notes


def _difference(ours: Array, theirs: Array) -> float:
    """Largest difference relative to the largest magnitude."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.size:
        return 0.0
    scale = float(np.abs(theirs).max()) or 1.0
    return float(np.abs(ours - theirs).max()) / scale


def _measure(runs: dict[str, peers.Run], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of every call by engine; engines take turns, the first of a round changes."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    order = list(runs)
    with terminal.progress() as report:
        for round_ in range(rounds):
            for name in order:
                time.sleep(PAUSE_SECONDS)
                times[name] += _block(runs[name], seconds)
            order = order[1:] + order[:1]
            report("measuring", round_ + 1, rounds)
    return times


def _block(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call during `seconds`, the first one, on cold caches, left out."""
    run()
    found = []
    end = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        run()
        now = time.perf_counter()
        found.append(now - begin)
        if now >= end:
            return found


def _print(
    threads: int, inputs: dict[str, Array], times: dict[str, list[float]], notes: dict[str, str]
) -> None:
    shapes = ", ".join(f"{name} {terminal.shape_text(x.shape)}" for name, x in inputs.items())
    terminal.output.print(
        f"{shapes}; {threads} {'thread' if threads == 1 else 'threads'}", markup=False
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("engine")
    for column in ("median ms", "min ms", "p99 ms", "calls", "ratio", "difference"):
        table.add_column(column, justify="right")
    own = float(np.median(times["packhorse"]))
    for name, found in times.items():
        median = float(np.median(found))
        table.add_row(
            name,
            f"{median * 1e3:.3f}",
            f"{min(found) * 1e3:.3f}",
            f"{float(np.percentile(found, 99)) * 1e3:.3f}",
            str(len(found)),
            f"{median / own:.2f}",
            notes.get(name, ""),
        )
    terminal.output.print(table)

"""`packhorse profile`: where the time of a model goes, beside what the core can do."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from api.cli import options, terminal
from api.cli.errors import CommandError
from api.cli.inputs import parse_shapes, random_inputs
from engine.profile import Memory, OperationTime, memory, roofline, trace
from engine.profile import profile as measured
from engine.roofline import Roofline


@dataclass
class Row:
    """Calls that the table shows together."""

    name: str
    kernel: str
    calls: int
    seconds: float
    operations: int
    traffic: int
    least: float


def profile(
    model: options.Model,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x224x224",
            help="Shape of an input; needed where the model leaves more than its first "
            "dimension open. Values are random.",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="A line per call instead of one per operator.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Runs; the least time counts.")] = 10,
    trace_file: Annotated[
        Path | None,
        typer.Option("--trace", help="Write one run as a trace for Perfetto (ui.perfetto.dev)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    fp32_node: options.Kept = None,
    bf16_first: options.First = None,
) -> None:
    """Time every operation on one thread, beside the limits of the core as measured now.

    GFLOP/s count two operations per multiply-add of the direct algorithm; GB/s the tensors that
    an operation reads and writes. The last column is the share of the least possible time: the
    larger of arithmetic at its peak and tensors at the bandwidth of where they fit.

    Example: packhorse profile resnet50.onnx --shape image=1x3x224x224
    """
    chosen = options.precision(precision, fp32_node, bf16_first)
    session = terminal.load(model, 1, isa, chosen)
    try:
        inputs = random_inputs(session, parse_shapes(shape or []))
        try:
            times = [each for each in measured(session, inputs, rounds) if each.items]
            used = memory(session, inputs)
        except ValueError as error:
            raise CommandError(str(error)) from None
        limits = roofline(session)
    finally:
        session.close()
    if trace_file is not None:
        try:
            trace_file.write_bytes(orjson.dumps(trace(times)))
        except OSError as error:
            raise CommandError(f"{trace_file} cannot be written: {error.strerror}") from None
    if json:
        report = {
            "operations": [asdict(each) for each in times],
            "memory": asdict(used),
            "limits": asdict(limits),
        }
        terminal.output.out(orjson.dumps(report).decode())
        return
    given = ", ".join(f"{name} {terminal.shape_text(x.shape)}" for name, x in inputs.items())
    total = sum(each.seconds for each in times)
    terminal.output.print(
        f"[bold]{escape(session.name)}[/] at {escape(given)}: {total * 1e3:.2f} ms on one thread"
    )
    terminal.output.print(_table(_rows(times, limits, nodes), total))
    _print_limits(limits, used)


def _rows(times: list[OperationTime], limits: Roofline, single: bool) -> list[Row]:
    """A row per operator and kernel, largest first, or with `single` one per call, in order."""
    rows: dict[object, Row] = {}
    for number, each in enumerate(times):
        key = number if single else (each.op, each.kernel)
        name = each.node if single else each.op
        row = rows.setdefault(key, Row(name, each.kernel, 0, 0.0, 0, 0, 0.0))
        row.calls += each.times
        row.seconds += each.seconds
        row.operations += each.operations
        row.traffic += each.traffic
        row.least += limits.seconds(each.operations, each.traffic)
    found = list(rows.values())
    return found if single else sorted(found, key=lambda row: -row.seconds)


def _table(rows: list[Row], total: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("operation", overflow="ellipsis", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    for column in ("calls", "time", "share", "GFLOP/s", "GB/s", "of limit"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        seconds = max(row.seconds, 1e-9)
        rate = f"{row.operations / seconds / 1e9:.1f}" if row.operations else ""
        table.add_row(
            escape(row.name.removeprefix("packhorse.")),
            row.kernel,
            str(row.calls),
            f"{row.seconds * 1e6:,.0f} µs",
            f"{row.seconds / total:.1%}",
            rate,
            f"{row.traffic / seconds / 1e9:.1f}",
            f"{row.least / seconds:.0%}",
        )
    return table


def _print_limits(limits: Roofline, used: Memory) -> None:
    terminal.output.print(
        f"[dim]core:[/] {limits.flops / 1e9:.0f} GFLOP/s, {limits.cache_bytes / 1e9:.0f} GB/s from "
        f"the second-level cache, {limits.memory_bytes / 1e9:.1f} GB/s from memory"
    )
    terminal.output.print(
        f"[dim]memory:[/] weights {_size(used.weights)}, activations {_size(used.arena)} "
        f"({_size(used.unshared)} if none shared)"
    )


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 1 << 20 else f"{size / 2**10:.0f} KiB"

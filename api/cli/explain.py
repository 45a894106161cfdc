"""`packhorse explain`: what the engine made of a model."""

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
from rich.markup import escape
from rich.table import Table

import engine
from api.cli import options, terminal
from api.cli.errors import CommandError
from api.cli.inputs import parse_shapes, random_inputs
from engine.explanation import Explanation, Operation, PassNote


def explain(
    model: options.Model,
    graph: Annotated[
        bool, typer.Option("--graph", help="Also print the graph before and after the passes.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x224x224",
            help="Show instead what runs at this input shape: predicted and measured time of "
            "every operation, and between which algorithms was chosen.",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = None,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    fp32_node: options.Kept = None,
    bf16_first: options.First = None,
) -> None:
    """Show how a model runs: its passes, a kernel per operation, what falls back and why.

    Native operations run as generated machine code. Operations without a kernel fall back to the
    reference implementation of the `onnx` package, which is correct and slow.

    Example: packhorse explain digits.onnx
    """
    chosen = options.precision(precision, fp32_node, bf16_first)
    session = terminal.load(model, threads, isa, chosen)
    try:
        if shape:
            _explain_shape(session, shape, json)
            return
        explanation = session.explain()
    finally:
        session.close()
    if json:
        terminal.output.out(orjson.dumps(asdict(explanation)).decode())
        return
    if graph:
        _print_graph("as read", explanation.graph_before)
        _print_graph("after the passes", explanation.graph_after)
    _print_passes(explanation)
    _print_operations(explanation)
    _print_summary(explanation)


def _explain_shape(session: engine.Session, shapes: list[str], json: bool) -> None:
    from engine.choices import shaped_calls, slices_of

    inputs = random_inputs(session, parse_shapes(shapes))
    try:
        calls = shaped_calls(session, inputs)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if json:
        terminal.output.out(orjson.dumps([asdict(call) for call in calls]).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("node", "op", "kernel", "items", "predicted", "measured", "chosen, and why"):
        numeric = column in ("items", "predicted", "measured")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for call in calls:
        if call.items:
            times = (f"{seconds * 1e6:,.0f} µs" for seconds in (call.predicted, call.measured))
            cells = (call.node, call.op, call.kernel, str(call.items), *times, call.why)
            table.add_row(*map(escape, cells))
    given = ", ".join(f"{name} {terminal.shape_text(x.shape)}" for name, x in inputs.items())
    terminal.output.print(f"[bold]At[/] {escape(given)}, on one thread")
    terminal.output.print(table)
    total = sum(call.measured for call in calls)
    terminal.output.print(f"{session.name}: {total * 1e3:.2f} ms in all", highlight=False)
    if slices := slices_of(session, inputs):
        terminal.output.print(
            f"a run takes {len(slices)} slices of at most {max(slices)} rows one after the other, "
            "because activations of all rows outgrow the last-level cache",
            highlight=False,
        )


def _print_graph(title: str, lines: tuple[str, ...]) -> None:
    terminal.output.print(f"[bold]Graph {title}[/]")
    for line in lines:
        terminal.output.print(f"  {escape(line)}")
    terminal.output.print()


def _print_passes(explanation: Explanation) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("pass", "changed", "left alone, and why"):
        table.add_column(column, justify="right" if column == "changed" else "left")
    for name, changed, reasons in _by_pass(explanation.passes):
        lines = [f"{reason} (x{n})" if n > 1 else reason for reason, n in reasons.items()]
        table.add_row(escape(name), str(changed), escape("\n".join(lines)))
    terminal.output.print(
        f"[bold]Passes[/]  {explanation.nodes_before} nodes as read, "
        f"{explanation.nodes_after} after"
    )
    terminal.output.print(table)
    terminal.output.print()


def _by_pass(notes: tuple[PassNote, ...]) -> list[tuple[str, int, Counter[str]]]:
    """Passes in the order of their first run, with what all their runs changed and left alone."""
    changed: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for note in notes:
        changed[note.name] += note.changed
        reasons.setdefault(note.name, Counter()).update(note.reasons)
    return [(name, changed[name], found) for name, found in reasons.items()]


def _print_operations(explanation: Explanation) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("node", "op", "kernel", "output", "packed", "why"):
        table.add_column(column, justify="right" if column == "packed" else "left", overflow="fold")
    for operation in explanation.operations:
        table.add_row(*map(escape, _cells(operation)), style=None if operation.native else "yellow")
    terminal.output.print("[bold]Operations[/], in the order of execution")
    terminal.output.print(table)
    terminal.output.print()


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _cells(operation: Operation) -> tuple[str, ...]:
    return (
        operation.node,
        operation.op,
        operation.kernel,
        ", ".join(map(terminal.shape_text, operation.shapes)),
        terminal.bytes_text(operation.packed_bytes) if operation.packed_bytes else "",
        operation.reason,
    )


def _print_summary(explanation: Explanation) -> None:
    total = len(explanation.operations)
    native = total - explanation.fallback_count
    terminal.output.print(
        f"{explanation.model}: {native} of {total} operations native "
        f"({explanation.isa}, {_threads(explanation.threads)}); "
        f"{terminal.bytes_text(explanation.packed_bytes)} of packed weights"
    )
    if explanation.precision != "fp32":
        terminal.output.print(f"precision: {escape(explanation.precision)}")
    share = "share" if explanation.ragged else "do not share"
    terminal.output.print(
        f"sequences of different lengths {share} a run: {escape(explanation.ragged_reason)}"
    )
    if explanation.fallbacks:
        counts = Counter(operation.op for operation in explanation.fallbacks)
        listed = ", ".join(f"{op} x{count}" for op, count in counts.most_common())
        terminal.output.print(f"[yellow]on the fallback path:[/] {escape(listed)}")

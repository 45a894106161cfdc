"""`packhorse run`: one prediction on the command line."""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from api.cli import options, terminal
from api.cli.errors import CommandError, UsageError
from api.cli.images import Colour, Fit, Layout
from api.cli.inputs import read_inputs

Array = NDArray[Any]


def run(
    model: options.Model,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="Input: .npy, .npz, .json or an image; once per input. Several files for one "
            "input become one batch.",
            show_default=False,
        ),
    ],
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="Compute only this output."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Write all outputs to this file."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outputs as JSON.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Largest entries to list per row.")] = 5,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Images: factor for pixels of 0..255; default 1/255 for float inputs, 1 for "
            "integer inputs.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str, typer.Option(help="Images: subtracted after scaling; one number or one per channel.")
    ] = "0",
    std: Annotated[
        str, typer.Option(help="Images: divided by after that; one number or one per channel.")
    ] = "1",
    colour: Annotated[
        Colour, typer.Option("--colour", "--color", help="Images: order of the channels.")
    ] = "auto",
    layout: Annotated[
        Layout, typer.Option(help="Images: order of the axes, where the shape leaves it open.")
    ] = "auto",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Images: size for inputs that leave it open; default: the image's own.",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = None,
    isa: options.IsaOption = None,
    precision: options.PrecisionOption = None,
    fp32_node: options.Kept = None,
    bf16_first: options.First = None,
) -> None:
    """Run a model once on files and print its outputs.

    Images are decoded, converted to grey or RGB as the input has 1 or 3 channels, resized to its
    height and width where those are fixed, scaled, and laid out as the input's shape says (NCHW or
    NHWC).

    Example: packhorse run digits.onnx --input seven.png
    """
    fit = Fit(
        colour,
        layout,
        None if scale is None else options.number(scale, "--scale"),
        options.numbers(mean, "--mean"),
        options.numbers(std, "--std"),
        None if size is None else options.size(size, "--size"),
    )
    chosen = options.precision(precision, fp32_node, bf16_first)
    session = terminal.load(model, threads, isa, chosen)
    try:
        names = [spec.name for spec in session.outputs]
        for name in output or ():
            if name not in names:
                raise UsageError(f"the model has no output {name!r}; its outputs are {names}")
        arrays = read_inputs(session, inputs, fit)
        begin = time.perf_counter()
        results = session.run(arrays, output or None)
        elapsed = time.perf_counter() - begin
    finally:
        session.close()
    if save is not None:
        _save(save, results)
    if json:
        terminal.output.out(_json(results))
        return
    for name, array in results.items():
        _print(name, array, top)
    terminal.print_note(f"{elapsed * 1e3:.2f} ms on the first run")


def _save(path: Path, results: dict[str, Array]) -> None:
    try:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **results)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {path}: {error}") from None


def _json(results: dict[str, Array]) -> str:
    """Outputs as one JSON object of nested lists; NaN and infinities become null."""
    lists = {name: array.tolist() for name, array in results.items()}
    return orjson.dumps(lists, default=_text).decode()


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _print(name: str, array: Array, top: int) -> None:
    head = f"[bold]{escape(name)}[/] {array.dtype}{escape(terminal.shape_text(array.shape))}"
    if array.size == 0 or array.dtype.kind not in "fiub":
        terminal.output.print(head, escape(np.array2string(array, threshold=20)))
        return
    values = array.astype(np.float64) if array.dtype.kind == "f" else array
    terminal.output.print(
        f"{head}  min {values.min():.6g}  max {values.max():.6g}  mean {values.mean():.6g}"
    )
    is_classes = array.ndim == 2 and array.shape[1] >= 2 and len(array) <= 32
    if top and is_classes and array.dtype.kind == "f":
        _print_top(values, top)
    else:
        terminal.output.print(escape(np.array2string(array, threshold=40, precision=6)))


def _print_top(values: Array, top: int) -> None:
    """The largest entries of every row with their positions."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("row", justify="right")
    for rank in range(1, min(top, values.shape[1]) + 1):
        table.add_column(f"#{rank}", justify="right")
    for index, row in enumerate(values):
        order = np.argsort(-row, kind="stable")[:top]
        table.add_row(str(index), *(f"{place}: {row[place]:.4g}" for place in order))
    terminal.output.print(table)

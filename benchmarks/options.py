"""Command-line options that several benchmarks share."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.models import MODELS, BenchmarkModel, select

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "packhorse-benchmarks"

Models = Annotated[
    str | None, typer.Option(help=f"Comma-separated; all by default. Known: {', '.join(MODELS)}.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Blocks that each engine gets per case.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Smallest shapes, few calls: does everything run?")
]
CacheFolder = Annotated[Path, typer.Option(help="Folder for built models and compiled code.")]
Timeout = Annotated[float, typer.Option(help="Seconds after which an engine counts as hung.")]


def chosen_models(names: str | None) -> tuple[BenchmarkModel, ...]:
    """Models by their names, or a usage error."""
    try:
        return select(names)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--models") from None


def integers(text: str, option: str) -> tuple[int, ...]:
    """Positive integers of a comma-separated list, or a usage error."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is not a list of positive integers", param_hint=option)
    return numbers


def write_text(path: Path | None, text: str) -> None:
    """Write a file, making its folder, as a whole or not at all; nothing for None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(text + "\n")
        part.replace(path)

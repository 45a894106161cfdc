"""Options that several commands share, and how their texts are read."""

import re
from typing import Annotated, Literal

import typer

from api.cli.errors import UsageError
from engine import cpu
from engine.errors import InputError
from engine.precision import Precision

Model = Annotated[str, typer.Argument(metavar="MODEL", help="ONNX file.", show_default=False)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "-t",
        min=1,
        envvar="PACKHORSE_THREADS",
        help="Threads to run on; default: all usable CPUs.",
        show_default=False,
    ),
]
IsaOption = Annotated[
    cpu.Isa | None,
    typer.Option(
        "--isa",
        envvar="PACKHORSE_ISA",
        help="Use at most this instruction set; default: the best the CPU has.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        "--precision",
        envvar="PACKHORSE_PRECISION",
        help="In which type products multiply; default: fp32.",
        show_default=False,
    ),
]
Kept = Annotated[
    list[str] | None,
    typer.Option(
        "--fp32-node",
        metavar="NODE",
        help="A product that stays in fp32 with --precision bf16, as explain names it; repeatable.",
        show_default=False,
    ),
]
First = Annotated[
    int | None,
    typer.Option(
        "--bf16-first",
        min=0,
        metavar="N",
        help="With --precision bf16, only the first N products, to find the one that costs "
        "accuracy.",
        show_default=False,
    ),
]


def precision(
    kind: str | None, keep: list[str] | None, first: int | None, emulate: bool = False
) -> Precision:
    """The precision that options ask for. Raises UsageError."""
    try:
        return Precision.of(kind or "fp32", keep or (), first, emulate)
    except InputError as error:
        raise UsageError(str(error)) from None


def number(text: str, option: str) -> float:
    """A decimal number or a fraction such as `1/255`. Raises UsageError."""
    first, separator, second = text.partition("/")
    try:
        return float(first) / float(second) if separator else float(first)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{option} {text!r}: give a number such as 0.5 or 1/255") from None


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas, for example `0.485,0.456,0.406`. Raises UsageError."""
    return tuple(number(part.strip(), option) for part in text.split(","))


def size(text: str, option: str) -> tuple[int, int]:
    """Height and width from a text such as `480x640`. Raises UsageError."""
    match = re.fullmatch(r"([1-9]\d*)[x,]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"{option} {text!r}: give height and width such as 480x640")
    return int(match[1]), int(match[2])

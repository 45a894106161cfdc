"""Figures beside their goals."""

from dataclasses import dataclass

from rich.console import Console

from benchmarks import tables


@dataclass(frozen=True)
class Figure:
    """One figure; `met` is None where there is no goal."""

    name: str
    value: str
    goal: str
    met: bool | None
    note: str


def show(out: Console, figures: list[Figure]) -> None:
    """Print a row for each."""
    table = tables.grid("Fleet", "figure", "measured", "goal", "met", "remarks")
    for figure in figures:
        met = {None: "", True: "yes", False: "[bold red]no[/]"}[figure.met]
        table.add_row(figure.name, figure.value, figure.goal, met, figure.note)
    out.print(table)

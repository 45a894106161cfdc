"""Documentation pages that benchmarks write: a title, where it comes from, and what was printed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

PageFile = Annotated[
    Path | None, typer.Option("--page", help="Write what was printed to this Markdown page.")
]


def markdown(
    title: str, introduction: Sequence[str], printed: str, chart: tuple[str, str] | None = None
) -> str:
    """A page with the chart, as (alternative text, link), and the tables as they were printed."""
    lines = [f"# {title}", "", *introduction, ""]
    if chart is not None:
        lines += [f"![{chart[0]}]({chart[1]})", ""]
    lines += ["```text", *(line.rstrip() for line in printed.splitlines()), "```"]
    return "\n".join(lines)


def link(target: Path, page: Path) -> str:
    """How a page refers to a file beside it."""
    return os.path.relpath(target, page.parent)

"""`packhorse cache`: what is kept on disk between starts."""

from __future__ import annotations

import json as jsonlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from api.cli import terminal
from api.cli.errors import CommandError
from engine.caches import Caches

cache = typer.Typer(
    name="cache",
    help="What is kept on disk between starts: compiled kernels and prepared models.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="PACKHORSE_CACHE_DIR",
        help="Cache folder; default: packhorse in the user's cache folder.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cache.command("ls")
def list_entries(cache_dir: Folder = None, json: Json = False) -> None:
    """List every entry, the most recently used first."""
    caches = Caches(cache_dir)
    entries = caches.entries()
    if json:
        terminal.output.print_json(jsonlib.dumps([asdict(entry) for entry in entries]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("store", "entry", "instruction set"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=72)
    for heading in ("size", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    now = time.time()
    for entry in entries:
        table.add_row(
            entry.store,
            escape(entry.title),
            entry.isa,
            terminal.bytes_text(entry.size),
            _age(now - entry.used_s),
        )
    if entries:
        terminal.output.print(table)
    else:
        terminal.output.print(f"{caches.folder} is empty", markup=False)


@cache.command()
def stats(cache_dir: Folder = None, json: Json = False) -> None:
    """Entries and bytes of each store, and the most it may take.

    Hits, misses and evictions belong to a process: a server tells its own on /metrics.
    """
    summaries = Caches(cache_dir).summaries()
    if json:
        rows = [{**asdict(row), "folder": str(row.folder)} for row in summaries]
        terminal.output.print_json(jsonlib.dumps(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("store")
    for heading in ("entries", "size", "at most"):
        table.add_column(heading, justify="right")
    table.add_column("folder", overflow="fold")
    for row in summaries:
        sizes = terminal.bytes_text(row.size), terminal.bytes_text(row.limit)
        table.add_row(row.store, str(row.entries), *sizes, escape(str(row.folder)))
    terminal.output.print(table)


@cache.command()
def clear(cache_dir: Folder = None) -> None:
    """Remove every entry; running servers keep what they have loaded."""
    caches = Caches(cache_dir)
    terminal.output.print(f"{_entries(caches.clear())} removed from {caches.folder}", markup=False)


@cache.command("export")
def export_entries(
    archive: Annotated[Path, typer.Argument(metavar="FILE.tar", help="File to write.")],
    cache_dir: Folder = None,
) -> None:
    """Write every entry into an archive, for an image or another machine of the same kind."""
    count = Caches(cache_dir).pack(archive)
    size = terminal.bytes_text(archive.stat().st_size)
    terminal.output.print(f"{_entries(count)}, {size}, written to {archive}", markup=False)


@cache.command("import")
def import_entries(
    archive: Annotated[Path, typer.Argument(metavar="FILE.tar", help="File to read.")],
    cache_dir: Folder = None,
) -> None:
    """Take over the entries of an archive. It holds code that will run: import only your own."""
    if not archive.is_file():
        raise CommandError(f"{archive}: no such file")
    caches = Caches(cache_dir)
    terminal.output.print(
        f"{_entries(caches.unpack(archive))} imported into {caches.folder}", markup=False
    )


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _age(seconds: float) -> str:
    """A time ago for people: `5 min ago`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"

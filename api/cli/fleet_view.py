"""A fleet's status as tables, for a terminal that is refreshed or for a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cluster.fleet.status import FleetStatus

_SILENT_S = 2.0
_TEXTS = frozenset({"worker", "gateway", "address", "state", "CPUs", "memory", "models"})
"""Columns that are read from the left."""
_COLOURS = {"RUNNING": "green", "DEPLOYING": "yellow", "UPDATING": "yellow"}


class Rates:
    """Differences of counters between two looks, per second."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, dict[str, float]]] = {}

    def of(self, key: str, now: float, counters: dict[str, float]) -> dict[str, float]:
        """How fast each counter grows, 0 at the first look and after a restart."""
        then, before = self._before.get(key, (now, counters))
        self._before[key] = (now, counters)
        passed = now - then
        if passed <= 0:
            return dict.fromkeys(counters, 0.0)
        return {
            name: max(0.0, value - before.get(name, value)) / passed
            for name, value in counters.items()
        }


def render(
    status: FleetStatus, now: float, rates: Rates, width: int | None = None
) -> RenderableType:
    """The tables of a fleet; `now` in seconds on any clock that goes on.

    In a terminal of few columns, given as `width`, what matters least is left out.
    """
    colour = _COLOURS.get(status.state, "red")
    head = Text.from_markup(
        f"fleet [bold]{escape(status.name)}[/]  [{colour}]{status.state}[/]  "
        f"{sum(not _silent(worker) for worker in status.workers)} of {status.wanted} workers"
    )
    parts: list[RenderableType] = [head, _workers(status, now, rates, width)]
    if status.gateways:
        parts.append(_gateways(status, now, rates, width))
    notes = [*status.problems, *([status.message] if status.message else [])]
    parts += [Text(note, style="red") for note in notes]
    parts += [
        Text(f"worker {w['worker']}: threads outside its slot: {', '.join(w['strays'])}", "red")
        for w in status.workers
        if w.get("strays")
    ]
    return Group(*parts)


def _workers(status: FleetStatus, now: float, rates: Rates, width: int | None) -> Table:
    rows = []
    for worker in status.workers:
        counters = {
            "busy": float(worker.get("busy_seconds", 0)),
            "batches": float(worker.get("batches", 0)),
        }
        speed = rates.of(str(worker["incarnation"]), now, counters)
        state = "[yellow]draining[/]" if worker.get("draining") else "[green]serving[/]"
        if worker.get("stands_in"):
            state = "[yellow]stands in[/]"
        if _silent(worker):
            state = f"[red]silent {worker['silent_s']:.0f} s[/]"
        local = worker.get("local_pages")
        rows.append(
            {
                "worker": escape(str(worker["worker"])),
                "state": state,
                "CPUs": str(worker.get("cpus", "")),
                "memory": str(worker.get("memory_policy", "")),
                "local": "" if local is None else f"{local:.0%}",
                "busy": f"{min(speed['busy'], 1):.0%}",
                "batches/s": f"{speed['batches']:.0f}",
                "waiting": str(worker.get("waiting", 0)),
                "batches": str(worker.get("batches", 0)),
                "failed": _failures(worker.get("failed_batches", 0)),
                "pid": str(worker.get("pid", "")),
                "models": escape(", ".join(worker.get("repository_models", ()))),
            }
        )
    for replica in status.missing:
        node = escape(f"{replica.node}/?")
        rows.append({"worker": node, "state": f"[yellow]{replica.state.lower()}[/]"})
    return _table(rows, ("worker", "state"), ("memory", "pid", "local", "batches", "models"), width)


def _gateways(status: FleetStatus, now: float, rates: Rates, width: int | None) -> Table:
    rows = []
    for gateway in status.gateways:
        counters = {"requests": float(gateway.get("requests", 0))}
        speed = rates.of(f"gateway {gateway['gateway']}", now, counters)
        workers: list[dict[str, Any]] = gateway.get("workers", [])
        rows.append(
            {
                "gateway": escape(str(gateway["gateway"])),
                "address": escape(str(gateway.get("url", ""))),
                "state": "[green]ready[/]" if gateway.get("ready") else "[yellow]not ready[/]",
                "requests/s": f"{speed['requests']:.0f}",
                "waiting": str(gateway.get("waiting", 0)),
                "requests": str(gateway.get("requests", 0)),
                "failed": _failures(gateway.get("failed", 0)),
                "workers": str(sum(worker.get("state") == "ready" for worker in workers)),
            }
        )
    return _table(rows, ("gateway", "address"), ("requests", "waiting", "gateway"), width)


def _table(
    rows: Sequence[Mapping[str, str]],
    kept: Sequence[str],
    spare: Sequence[str],
    width: int | None,
) -> Table:
    """A table of all columns that fit: those of `spare` go one by one, `kept` are never cut."""
    columns = list(rows[0]) if rows else list(kept)
    left = list(spare)
    while True:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            right = name not in _TEXTS
            table.add_column(name, justify="right" if right else "left", no_wrap=name in kept)
        for row in rows:
            table.add_row(*(row.get(name, "") for name in columns))
        if width is None or not left or _wanted(table) <= width:
            return table
        columns.remove(left.pop(0))


def _wanted(table: Table) -> int:
    """Columns of the terminal that a table would like to have."""
    return Console(width=10_000).measure(table).maximum


def _silent(worker: dict[str, Any]) -> bool:
    """Whether it has missed two renewals of its entry: it is dead, stopped, or cut off."""
    return bool(worker.get("silent_s", 0) > _SILENT_S)


def _failures(count: int) -> str:
    return f"[red]{count}[/]" if count else "0"

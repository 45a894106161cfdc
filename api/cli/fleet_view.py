"""A fleet's status as tables, for a terminal that is refreshed or for a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cluster.fleet.status import FleetStatus

_SILENT_S = 2.0
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


def render(status: FleetStatus, now: float, rates: Rates) -> RenderableType:
    """The tables of a fleet; `now` in seconds on any clock that goes on."""
    colour = _COLOURS.get(status.state, "red")
    head = Text.from_markup(
        f"fleet [bold]{escape(status.name)}[/]  [{colour}]{status.state}[/]  "
        f"{sum(not _silent(worker) for worker in status.workers)} of {status.wanted} workers"
    )
    parts: list[RenderableType] = [head, _workers(status, now, rates)]
    if status.gateways:
        parts.append(_gateways(status, now, rates))
    notes = [*status.problems, *([status.message] if status.message else [])]
    parts += [Text(note, style="red") for note in notes]
    parts += [
        Text(f"worker {w['worker']}: threads outside its slot: {', '.join(w['strays'])}", "red")
        for w in status.workers
        if w.get("strays")
    ]
    return Group(*parts)


def _workers(status: FleetStatus, now: float, rates: Rates) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("worker", "state", "CPUs", "memory"):
        table.add_column(name)
    for name in ("local", "busy", "batches/s", "waiting", "batches", "failed", "pid"):
        table.add_column(name, justify="right")
    table.add_column("models")
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
        table.add_row(
            escape(str(worker["worker"])),
            state,
            str(worker.get("cpus", "")),
            str(worker.get("memory_policy", "")),
            "" if local is None else f"{local:.0%}",
            f"{min(speed['busy'], 1):.0%}",
            f"{speed['batches']:.0f}",
            str(worker.get("waiting", 0)),
            str(worker.get("batches", 0)),
            _failures(worker.get("failed_batches", 0)),
            str(worker.get("pid", "")),
            escape(", ".join(worker.get("repository_models", ()))),
        )
    for replica in status.missing:
        table.add_row(escape(f"{replica.node}/?"), f"[yellow]{replica.state.lower()}[/]")
    return table


def _gateways(status: FleetStatus, now: float, rates: Rates) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("gateway", "address", "state"):
        table.add_column(name)
    for name in ("requests/s", "waiting", "requests", "failed", "workers"):
        table.add_column(name, justify="right")
    for gateway in status.gateways:
        counters = {"requests": float(gateway.get("requests", 0))}
        speed = rates.of(f"gateway {gateway['gateway']}", now, counters)
        workers: list[dict[str, Any]] = gateway.get("workers", [])
        table.add_row(
            escape(str(gateway["gateway"])),
            escape(str(gateway.get("url", ""))),
            "[green]ready[/]" if gateway.get("ready") else "[yellow]not ready[/]",
            f"{speed['requests']:.0f}",
            str(gateway.get("waiting", 0)),
            str(gateway.get("requests", 0)),
            _failures(gateway.get("failed", 0)),
            str(sum(worker.get("state") == "ready" for worker in workers)),
        )
    return table


def _silent(worker: dict[str, Any]) -> bool:
    """Whether it has missed two renewals of its entry: it is dead, stopped, or cut off."""
    return bool(worker.get("silent_s", 0) > _SILENT_S)


def _failures(count: int) -> str:
    return f"[red]{count}[/]" if count else "0"

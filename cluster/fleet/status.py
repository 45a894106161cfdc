"""What a fleet is and does now, put together from Serve and from the directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import FleetError
from cluster.fleet.control import Replica
from cluster.fleet.directory_client import ask
from cluster.fleet.local import FleetRecord


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """A fleet at one moment.

    `workers` and `gateways` are as the directory reports them; `missing` are replicas that Serve
    has and the directory does not. `problems` says what could not be asked, and why.
    """

    name: str
    state: str
    message: str
    wanted: int
    workers: tuple[dict[str, Any], ...]
    gateways: tuple[dict[str, Any], ...]
    missing: tuple[Replica, ...]
    problems: tuple[str, ...]


async def look(record: FleetRecord, timeout_s: float = 5.0) -> FleetStatus:
    """Ask Serve and the directory; what does not answer becomes a problem, not an error."""
    problems = []
    state = None
    try:
        state = record.control.state(record.name)
        if state is None:
            problems.append(f"Ray's cluster at {record.dashboard} does not run this fleet")
    except FleetError as error:
        problems.append(str(error))
    found: dict[str, Any] = {}
    try:
        found = await ask(record.directory, record.secret, {"do": "status"}, timeout_s)
    except FleetError as error:
        problems.append(str(error))
    workers: Sequence[dict[str, Any]] = found.get("workers") or ()
    known = {worker.get("pid") for worker in workers}
    replicas = state.replicas if state is not None else ()
    return FleetStatus(
        record.name,
        state.status if state is not None else "UNKNOWN",
        state.message if state is not None else "",
        state.wanted if state is not None else 0,
        tuple(workers),
        tuple(found.get("gateways") or ()),
        tuple(r for r in replicas if r.deployment == "Worker" and r.pid not in known),
        tuple(problems),
    )

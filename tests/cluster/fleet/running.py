"""Fleets under Ray for the tests that need one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet import local
from cluster.fleet.configuration import describe
from cluster.fleet.local import FleetRecord
from cluster.fleet.processes import ProcessId, descendants
from cluster.fleet.ray_node import free_port
from cluster.topology.tree import read_topology

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples/digits/digits.onnx"


@dataclass
class Running:
    """A fleet that is up, and the folder of its leases."""

    record: FleetRecord
    leases: Path


@contextmanager
def running(folder: Path, places: int | None = None, **arguments: Any) -> Iterator[Running]:
    """Workers with a core each on this machine; afterwards nothing of it is left."""
    pytest.importorskip("ray", reason="needs packhorse[fleet]")
    if read_topology().cores < 2:
        pytest.skip("needs two cores, one per worker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        for name in ("PACKHORSE_FLEET_SECRET", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        leases = folder / "leases"
        description = describe(
            MODEL, slots=2, leases=str(leases), directory_port=free_port(), **arguments
        )
        record = local.up(description, dashboard_port=free_port(), places=places)
        processes: list[ProcessId] = []
        try:
            yield Running(record, leases)
        finally:
            record = local.recall()
            for root in filter(None, (record.head, *record.nodes)):
                processes += [root, *descendants(root)]
            local.down(record)
            assert not [process for process in processes if process.alive]

"""One fleet under Ray, shared by all tests that need one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.fleet import local
from cluster.fleet.configuration import describe
from cluster.fleet.local import FleetRecord
from cluster.fleet.processes import descendants
from cluster.fleet.ray_node import free_port
from cluster.topology.tree import read_topology

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples/digits/digits.onnx"


@dataclass
class Running:
    """A fleet that is up, and the folder of its leases."""

    record: FleetRecord
    leases: Path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers with a core each on this machine; afterwards nothing of it is left."""
    pytest.importorskip("ray", reason="needs packhorse[fleet]")
    if read_topology().cores < 2:
        pytest.skip("needs two cores, one per worker")
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        # Sockets have short paths; the folders of pytest are long.
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        for name in ("PACKHORSE_FLEET_SECRET", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        description = describe(
            MODEL, slots=2, leases=str(folder / "leases"), directory_port=free_port()
        )
        record = local.up(description, dashboard_port=free_port())
        assert record.head is not None
        try:
            yield Running(record, folder / "leases")
        finally:
            processes = [record.head, *record.nodes, *descendants(record.head)]
            local.down(record)
            assert not [process for process in processes if process.alive]

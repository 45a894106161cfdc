"""Slots of recorded machines; properties over machines of any form."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PlacementError
from cluster.topology.slots import Boundary, cpu_list, divide
from cluster.topology.tree import read_topology
from engine.cgroup import parse_cpu_list
from tests.cluster.topology.machines import EPYC, XEON_SNC2, Recorded

EPYC_SMT = replace(EPYC, smt=True)
XEON_PLAIN = replace(XEON_SNC2, smt=False)


def contained(machine: Recorded, cpus: str, nodes: str) -> Recorded:
    return replace(machine, allowed=cpus, cpuset=cpus, mems_allowed=nodes)


@pytest.mark.parametrize(
    ("machine", "by", "expected"),
    [
        (XEON_SNC2, "socket", ["0-31,64-95", "32-63,96-127"]),
        (XEON_SNC2, "node", ["0-15,64-79", "16-31,80-95", "32-47,96-111", "48-63,112-127"]),
        (XEON_SNC2, "cache", ["0-15,64-79", "16-31,80-95", "32-47,96-111", "48-63,112-127"]),
        (XEON_SNC2, "machine", ["0-127"]),
        (EPYC, "node", ["0-63"]),
        (EPYC, "cache", [f"{first}-{first + 7}" for first in range(0, 64, 8)]),
        (XEON_SNC2, 2, ["0-31,64-95", "32-63,96-127"]),
        (XEON_SNC2, 3, ["0-15,64-79", "16-31,80-95", "32-63,96-127"]),
        (EPYC, 4, ["0-15", "16-31", "32-47", "48-63"]),
        (EPYC, 3, ["0-23", "24-47", "48-63"]),
        # The same processor with SMT, the same Xeon without it.
        (EPYC_SMT, "cache", [f"{n}-{n + 7},{n + 64}-{n + 71}" for n in range(0, 64, 8)]),
        (EPYC_SMT, 2, ["0-31,64-95", "32-63,96-127"]),
        (XEON_PLAIN, "node", ["0-15", "16-31", "32-47", "48-63"]),
        # Containers of some CPUs: what they were given is cut, nothing else.
        (contained(XEON_SNC2, "16-31,80-95", "1"), "socket", ["16-31,80-95"]),
        (contained(XEON_SNC2, "8-23,72-87", "0-1"), "node", ["8-15,72-79", "16-23,80-87"]),
        (contained(EPYC, "4-19", "0"), "cache", ["4-7", "8-15", "16-19"]),
        (contained(EPYC_SMT, "0-7", "0"), 2, ["0-3", "4-7"]),
        # CPUs that are offline leave holes, and their siblings stay with their core.
        (
            replace(EPYC_SMT, offline=frozenset({1, 64})),
            16,
            [
                *("0,2-4,66-68", "5-7,65,69-71"),
                *(f"{n}-{n + 3},{n + 64}-{n + 67}" for n in range(8, 64, 4)),
            ],
        ),
    ],
)
def test_cuts(machine: Recorded, by: Boundary | int, expected: list[str], tmp_path: Path) -> None:
    slots = divide(read_topology(machine.write(tmp_path)), by)
    assert [cpu_list(slot.cpus) for slot in slots] == expected
    assert [slot.threads for slot in slots] == [len(slot.cpus) for slot in slots]


def test_names_nodes_and_memory(tmp_path: Path) -> None:
    slots = divide(read_topology(XEON_SNC2.write(tmp_path)), "node")
    assert [slot.name for slot in slots] == ["node0", "node1", "node2", "node3"]
    assert [slot.memory_nodes for slot in slots] == [(0,), (1,), (2,), (3,)]
    assert [slot.sockets for slot in slots] == [(0,), (0,), (1,), (1,)]
    assert str(slots[1]) == "node1 (CPUs 16-31,80-95)"


def test_without_smt_siblings_stay_idle_but_leased(tmp_path: Path) -> None:
    (first, _) = divide(read_topology(XEON_SNC2.write(tmp_path)), 2, smt=False)
    assert first.cpus == first.cores == tuple(range(32))
    assert first.threads == 32


def test_a_time_quota_is_shared_out_in_whole_threads(tmp_path: Path) -> None:
    machine = replace(XEON_SNC2, quota="550000 100000")
    topology = read_topology(machine.write(tmp_path))
    assert [slot.threads for slot in divide(topology, "socket")] == [3, 2]
    assert [slot.threads for slot in divide(topology, "node")] == [2, 1, 1, 1]
    assert [len(slot.cpus) for slot in divide(topology, "socket")] == [64, 64]


def test_a_quota_below_one_thread_per_slot_cuts_fewer(tmp_path: Path) -> None:
    topology = read_topology(replace(EPYC, quota="200000 100000").write(tmp_path))
    assert [(len(slot.cpus), slot.threads) for slot in divide(topology, "cache")] == [
        (32, 1),
        (32, 1),
    ]
    with pytest.raises(PlacementError, match="3 slots do not fit: the time quota allows 2 cores"):
        divide(topology, 3)


def test_more_slots_than_cores_are_refused(tmp_path: Path) -> None:
    topology = read_topology(Recorded("x", 1, 1, 1, 1, smt=True).write(tmp_path))
    with pytest.raises(PlacementError, match="2 slots do not fit: this process may use 1 core "):
        divide(topology, 2)
    with pytest.raises(PlacementError, match="0 slots"):
        divide(topology, 0)


@settings(max_examples=25, deadline=None)
@given(
    machine=st.builds(
        Recorded,
        st.just("x"),
        st.integers(1, 2),
        st.integers(1, 2),
        st.integers(1, 3),
        st.integers(1, 3),
        smt=st.booleans(),
        offline=st.frozensets(st.integers(1, 8), max_size=3),
        quota=st.sampled_from([None, "100000 100000", "350000 100000", "9000000 100000"]),
    ),
    by=st.sampled_from(["machine", "socket", "node", "cache", "core"]) | st.integers(1, 40),
    smt=st.booleans(),
)
def test_slots_part_the_machine(machine: Recorded, by: Boundary | int, smt: bool) -> None:
    """Every core lies in exactly one slot, siblings together; threads never exceed the quota."""
    with tempfile.TemporaryDirectory() as folder:
        topology = read_topology(machine.write(Path(folder)))
    try:
        slots = divide(topology, by, smt=smt)
    except PlacementError:
        assert isinstance(by, int)
        assert by > min(topology.cores, int(topology.quota or topology.cores))
        return
    cores = [core for slot in slots for core in slot.cores]
    assert sorted(cores) == sorted({cpu.core for cpu in topology.cpus})
    cpus = [cpu for slot in slots for cpu in slot.cpus]
    assert len(cpus) == len(set(cpus)) == (len(topology.cpus) if smt else topology.cores)
    assert all(1 <= slot.threads <= len(slot.cpus) for slot in slots)
    if topology.quota is not None:
        assert sum(slot.threads for slot in slots) <= topology.quota
    if isinstance(by, int):
        assert len(slots) == by
        sizes = [len(slot.cores) for slot in slots]
        assert len(sizes) == 1 or min(sizes) >= 1


def test_cpu_lists_are_read_back() -> None:
    assert cpu_list([]) == ""
    for cpus in ({0}, {3, 1, 2, 9}, {0, 2, 4}):
        assert parse_cpu_list(cpu_list(cpus)) == cpus

"""The tree of CPUs on recorded machines and on this one."""

import dataclasses
import os
from pathlib import Path

from cluster.topology.tree import read_topology
from tests.cluster.topology.machines import EPYC, XEON_SNC2, Recorded


def test_two_sockets_with_sub_numa_clustering(tmp_path: Path) -> None:
    found = read_topology(XEON_SNC2.write(tmp_path))
    assert len(found.cpus) == 128
    assert (found.sockets, found.cores, len(found.nodes)) == (2, 64, 4)
    sibling = next(cpu for cpu in found.cpus if cpu.id == 64 + 20)
    assert (sibling.core, sibling.node, sibling.socket) == (20, 1, 0)
    # In the order of their position: siblings side by side, socket 0 first.
    assert [cpu.id for cpu in found.cpus[:4]] == [0, 64, 1, 65]
    assert {cpu.socket for cpu in found.cpus[:64]} == {0}
    assert found.nodes[0].distances == ((0, 10), (1, 12), (2, 21), (3, 21))


def test_eight_core_complexes(tmp_path: Path) -> None:
    found = read_topology(EPYC.write(tmp_path))
    assert {cpu.cache for cpu in found.cpus} == {0, 8, 16, 24, 32, 40, 48, 56}
    assert found.sockets == 1
    assert found.memory_nodes == {0}


def test_offline_cpus_do_not_exist_though_the_mask_names_them(tmp_path: Path) -> None:
    machine = dataclasses.replace(XEON_SNC2, offline=frozenset({5, 64, 70}))
    found = read_topology(machine.write(tmp_path))
    assert len(found.cpus) == 125
    assert not {cpu.id for cpu in found.cpus} & {5, 64, 70}
    # Core 5 lives on as its sibling, under the name of the lowest CPU that is left.
    assert next(cpu.core for cpu in found.cpus if cpu.id == 69) == 69


def test_a_container_sees_its_part(tmp_path: Path) -> None:
    machine = dataclasses.replace(
        XEON_SNC2, allowed="16-31", mems_allowed="1", cpuset="16-31", quota="1600000 100000"
    )
    found = read_topology(machine.write(tmp_path))
    assert [cpu.id for cpu in found.cpus] == list(range(16, 32))
    assert (found.cores, found.sockets) == (16, 1)
    assert found.memory_nodes == {1}
    assert not found.shared
    assert any("128" in note for note in found.notes)


def test_a_quota_below_the_cpus_shares_them(tmp_path: Path) -> None:
    machine = dataclasses.replace(EPYC, quota="400000 100000")
    found = read_topology(machine.write(tmp_path))
    assert found.quota == 4
    assert found.shared


def test_memory_comes_from_the_nearest_node_that_has_some(tmp_path: Path) -> None:
    machine = dataclasses.replace(XEON_SNC2, empty_nodes=frozenset({0}))
    found = read_topology(machine.write(tmp_path))
    assert found.memory_near(frozenset({0})) == {1}
    assert found.memory_near(frozenset({0, 2})) == {2}
    assert found.memory_near(frozenset({3})) == {3}


def test_no_sysfs_is_one_socket_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Cpus_allowed_list:\t0-3\n")
    found = read_topology(tmp_path)
    assert [(cpu.id, cpu.core, cpu.socket) for cpu in found.cpus] == [(i, i, 0) for i in range(4)]
    assert sum("sys/devices" in note for note in found.notes) == 3


def test_this_machine() -> None:
    found = read_topology()
    assert {cpu.id for cpu in found.cpus} <= os.sched_getaffinity(0)
    assert found.cores <= len(found.cpus)
    assert found.memory_near(frozenset({found.cpus[0].node}))


def test_unequal_sockets_are_no_trouble(tmp_path: Path) -> None:
    machine = Recorded("x", 2, 1, 1, 3, offline=frozenset({0, 1}))
    found = read_topology(machine.write(tmp_path))
    assert [(cpu.id, cpu.socket) for cpu in found.cpus] == [(2, 0), (3, 1), (4, 1), (5, 1)]

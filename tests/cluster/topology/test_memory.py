"""Memory policy and where pages are."""

import ctypes
import dataclasses
import errno
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.topology import memory
from cluster.topology.memory import locality, read_locality, set_policy
from cluster.topology.slots import divide
from cluster.topology.tree import read_topology
from tests.cluster.topology.machines import EPYC, XEON_SNC2

NUMA_MAPS = """\
558c8b5f0000 default file=/usr/bin/cat mapped=2 N0=2 kernelpagesize_kB=4
7f0000000000 prefer:1 anon=12 dirty=12 active=0 N0=2 N1=10 kernelpagesize_kB=4
7f1000000000 default anon=3 dirty=3 N1=3 kernelpagesize_kB=2048
7f2000000000 default file=/lib/x.so
"""


def test_pages_by_node(tmp_path: Path) -> None:
    maps = tmp_path / "numa_maps"
    maps.write_text(NUMA_MAPS)
    found = read_locality(maps)
    assert found is not None
    assert found.by_node == {0: 4 * 4096, 1: 10 * 4096 + 3 * (2 << 20)}
    assert found.share(frozenset({1})) == pytest.approx(1 - 16384 / (56 * 1024 + (6 << 20)))
    assert found.share(frozenset({0, 1})) == 1
    assert read_locality(tmp_path / "missing") is None


def test_this_process_where_the_kernel_tells() -> None:
    found = locality()
    if found is None:
        pytest.skip("the kernel shows no numa_maps")
    assert sum(found.by_node.values()) > 1 << 20


def test_policy_of_recorded_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answers = iter([0, errno.EPERM, errno.EINVAL])

    def prefer(node: int) -> int:
        asked.append(node)
        return next(answers)

    monkeypatch.setattr(memory, "_prefer", prefer)
    xeon = read_topology(XEON_SNC2.write(tmp_path / "xeon"))
    nodes = divide(xeon, "node")
    assert set_policy(nodes[2], xeon).mode == "preferred"
    assert "CAP_SYS_NICE" in set_policy(nodes[3], xeon).reason
    assert set_policy(nodes[0], xeon).mode == "first-touch"
    assert asked == [2, 3, 0]
    whole = divide(xeon, "machine")[0]
    assert "spans memory nodes 0-3" in set_policy(whole, xeon).reason
    epyc = read_topology(EPYC.write(tmp_path / "epyc"))
    assert "one memory node" in set_policy(divide(epyc, "cache")[0], epyc).reason
    only = dataclasses.replace(XEON_SNC2, empty_nodes=frozenset({1, 2, 3})).write(tmp_path / "one")
    assert "one memory node" in set_policy(nodes[1], read_topology(only)).reason
    assert asked == [2, 3, 0]


@pytest.mark.parametrize("node", [0, 1, 63, 64, 130])
def test_the_mask_has_the_bit_of_the_node(node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Library:
        def __init__(self, name: None, use_errno: bool) -> None:
            assert name is None
            assert use_errno

        def syscall(self, number: int, mode: int, mask: Any, bits: ctypes.c_ulong) -> int:
            asked.append((mode, list(mask), bits.value))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert memory._prefer(node) == 0
    ((mode, words, bits),) = asked
    assert mode == 1  # MPOL_PREFERRED of linux/mempolicy.h
    assert sum(word << 64 * place for place, word in enumerate(words)) == 1 << node
    # The kernel reads one bit less than it is told, and no word that is not there.
    assert node < bits - 1 <= 64 * len(words)
    assert len(words) == node // 64 + 1


def test_no_call_where_its_number_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert memory._prefer(0) == errno.ENOSYS


def test_the_call_reaches_the_kernel() -> None:
    code = "from cluster.topology.memory import _prefer; print(_prefer(0), _prefer(900))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, absent = map(int, done.stdout.split())
    assert first in (0, errno.EPERM, errno.ENOSYS)
    assert absent != 0

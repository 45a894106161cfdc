"""Where a worker's memory comes from, and where its pages are.

A pinned worker gets local memory without asking: Linux places a page on the node of the CPU that
touches it first, and all its threads run on one node. A memory policy adds that pages touched by
others on its behalf (the kernel's page cache aside) stay there too. Containers often forbid the
call (Docker's default seccomp profile does, without CAP_SYS_NICE); first touch then has to do, and
is reported as what is active. See set_mempolicy(2) and numa(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cluster.topology.slots import Slot, cpu_list
from cluster.topology.tree import Topology
from engine import cgroup

_SET_MEMPOLICY: Final = {"x86_64": 238, "aarch64": 237, "riscv64": 237}
_MPOL_PREFERRED: Final = 1
_WORD: Final = 64


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """What is active: `preferred` (the node's memory while it lasts) or `first-touch`, and why."""

    mode: Literal["preferred", "first-touch"]
    reason: str


@dataclass(frozen=True, slots=True)
class Locality:
    """Bytes of a process' memory by NUMA node."""

    by_node: Mapping[int, int] = field(default_factory=dict)

    def share(self, nodes: frozenset[int]) -> float:
        """The part of the memory that lies on `nodes`, from 0 to 1."""
        total = sum(self.by_node.values())
        return sum(self.by_node.get(node, 0) for node in nodes) / total if total else 1.0


def set_policy(slot: Slot, topology: Topology) -> MemoryPolicy:
    """Prefer the memory of the slot's node for the calling thread and all it will create.

    `preferred`, not `bind`: a full node then means slower memory rather than a killed worker.
    """
    filled = [node.id for node in topology.nodes if node.memory]
    if len(filled) <= 1:
        return MemoryPolicy("first-touch", "the machine has one memory node: every page is local")
    if len(slot.memory_nodes) != 1:
        nodes = cpu_list(slot.memory_nodes)
        return MemoryPolicy("first-touch", f"the slot spans memory nodes {nodes}")
    (node,) = slot.memory_nodes
    error = _prefer(node)
    if error == 0:
        return MemoryPolicy("preferred", f"the kernel was told to prefer node {node}")
    if error in (errno.EPERM, errno.ENOSYS):
        reason = "set_mempolicy is not permitted here; containers need CAP_SYS_NICE for it"
    else:
        reason = f"set_mempolicy failed: {os.strerror(error)}"
    return MemoryPolicy("first-touch", reason)


def locality(pid: int | None = None) -> Locality | None:
    """Where the pages of a process are, or None where the kernel does not tell."""
    return read_locality(Path(f"/proc/{pid or os.getpid()}/numa_maps"))


def read_locality(path: Path) -> Locality | None:
    """Sum up a `numa_maps` file: pages per node, times the size of the mapping's pages."""
    text = cgroup.read_text(path)
    if not text:
        return None
    by_node: dict[int, int] = {}
    for line in text.splitlines():
        size = re.search(r"\bkernelpagesize_kB=(\d+)", line)
        for node, pages in re.findall(r"\bN(\d+)=(\d+)", line):
            size_bytes = int(size[1]) << 10 if size else os.sysconf("SC_PAGE_SIZE")
            by_node[int(node)] = by_node.get(int(node), 0) + int(pages) * size_bytes
    return Locality(by_node)


def _prefer(node: int) -> int:
    """Call `set_mempolicy(MPOL_PREFERRED, node)`; returns 0 or the errno."""
    number = _SET_MEMPOLICY.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return errno.ENOSYS
    words = node // _WORD + 1
    mask = (ctypes.c_ulong * words)()
    mask[node // _WORD] = 1 << node % _WORD
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    # The kernel reads one bit less than it is told.
    done = syscall(number, _MPOL_PREFERRED, mask, ctypes.c_ulong(words * _WORD + 1))
    return 0 if done == 0 else ctypes.get_errno()

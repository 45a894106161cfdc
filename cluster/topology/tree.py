"""The machine's CPUs by socket, NUMA node, cache and core, cut down to what this process may use.

Read from `/sys` and `/proc` below a root folder, so that tests feed it machines we do not have.
What is usable (affinity, CPU sets, time quota) is `engine.cpu`'s to say; this module adds where
each usable CPU sits. File formats: the kernel's `Documentation/admin-guide/cputopology.rst` and
`Documentation/ABI/stable/sysfs-devices-node`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine import cgroup, cpu

_CPUS = "sys/devices/system/cpu"
_NODES = "sys/devices/system/node"


@dataclass(frozen=True, slots=True)
class Cpu:
    """One usable logical CPU and where it sits.

    `core` and `cache` are named after their lowest CPU id in the whole machine, usable or not, so
    that all processes of a machine give them the same name, whatever part of it each may use.
    """

    id: int
    core: int
    cache: int
    node: int
    socket: int


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node: bytes of memory on it, and distances to other nodes as the firmware says."""

    id: int
    memory: int
    distances: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """Usable CPUs in the order of their position, the NUMA nodes, and the quota on CPU time.

    `quota` is in CPUs, None for unlimited. `memory_nodes` are the nodes that memory may come from.
    `notes` says in sentences what was cut down or assumed.
    """

    model_name: str
    cpus: tuple[Cpu, ...]
    nodes: tuple[Node, ...]
    memory_nodes: frozenset[int]
    quota: float | None
    notes: tuple[str, ...]

    @property
    def sockets(self) -> int:
        """Number of sockets with a usable CPU."""
        return len({cpu.socket for cpu in self.cpus})

    @property
    def cores(self) -> int:
        """Number of physical cores with a usable CPU."""
        return len({cpu.core for cpu in self.cpus})

    @property
    def shared(self) -> bool:
        """Whether a time quota allows less than the CPUs: then no CPU is this process' own."""
        return self.quota is not None and self.quota < len(self.cpus)

    def memory_near(self, nodes: frozenset[int]) -> frozenset[int]:
        """The nodes that memory for CPUs on `nodes` should come from.

        Those of `nodes` that have memory this process may use; where none has, the nearest that do.
        """
        filled = {node.id for node in self.nodes if node.memory} & self.memory_nodes
        if own := nodes & filled:
            return frozenset(own)
        near: dict[int, int] = {}
        for node in self.nodes:
            if node.id in nodes:
                for other, distance in node.distances:
                    if other in filled:
                        near[other] = min(distance, near.get(other, distance))
        closest = min(near.values(), default=0)
        return frozenset(node for node, distance in near.items() if distance == closest)


def read_topology(root: Path = Path("/")) -> Topology:
    """Read the machine below `root`; nothing is cached, because affinities and CPU sets change."""
    machine = cpu.detect(root)
    notes = list(machine.notes)
    nodes, node_of = _nodes(root, notes)
    last_level = max((cache.level for cache in machine.caches), default=0)
    cpus = []
    for index in machine.cpus:
        folder = root / f"{_CPUS}/cpu{index}"
        cpus.append(
            Cpu(
                id=index,
                core=min(_list(folder / "topology/thread_siblings_list") or {index}),
                cache=_cache(folder, index, last_level),
                node=node_of.get(index, nodes[0].id),
                socket=_number(folder / "topology/physical_package_id"),
            )
        )
    if not (root / f"{_CPUS}/cpu{machine.cpus[0]}/topology").is_dir():
        notes.append(f"no {_CPUS}/cpu*/topology; every CPU is taken for a core of one socket")
    return Topology(
        model_name=machine.model_name,
        cpus=tuple(sorted(cpus, key=lambda c: (c.socket, c.node, c.cache, c.core, c.id))),
        nodes=nodes,
        memory_nodes=_allowed_memory(root) or frozenset(node.id for node in nodes),
        quota=machine.quota,
        notes=tuple(notes),
    )


def _nodes(root: Path, notes: list[str]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """The NUMA nodes, and the node of each CPU; one node 0 where the kernel shows none."""
    found: list[Node] = []
    node_of: dict[int, int] = {}
    folders = sorted(
        (int(match[1]), folder)
        for folder in (root / _NODES).glob("node*")
        if (match := re.fullmatch(r"node(\d+)", folder.name))
    )
    for index, folder in folders:
        for member in _list(folder / "cpulist") or ():
            node_of[member] = index
        distances = [int(x) for x in (cgroup.read_text(folder / "distance") or "").split()]
        known = [other for other, _ in folders]
        pairs = tuple(zip(known, distances, strict=False)) if len(known) == len(distances) else ()
        found.append(Node(index, _memory(folder / "meminfo"), pairs))
    if not found:
        notes.append(f"no {_NODES}; memory is taken for one node")
        found.append(Node(0, 1))
    return tuple(found), node_of


def _memory(path: Path) -> int:
    """Bytes of `MemTotal` in a node's `meminfo`."""
    match = re.search(r"MemTotal:\s+(\d+) kB", cgroup.read_text(path) or "")
    return int(match[1]) << 10 if match else 0


def _allowed_memory(root: Path) -> frozenset[int] | None:
    for line in (cgroup.read_text(root / "proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "Mems_allowed_list":
            return cgroup.parse_cpu_list(value)
    return None


def _cache(folder: Path, index: int, level: int) -> int:
    """The lowest CPU that shares the last-level cache of CPU `index`; -1 where none is shown."""
    for cache in sorted((folder / "cache").glob("index*")):
        if cgroup.read_text(cache / "level") == str(level):
            return min(_list(cache / "shared_cpu_list") or {index})
    return -1


def _list(path: Path) -> frozenset[int] | None:
    return cgroup.read_cpu_list(path)


def _number(path: Path) -> int:
    """A small integer; 0 where it is missing or unknown (the kernel writes -1)."""
    text = cgroup.read_text(path) or ""
    return int(text) if text.isdigit() else 0

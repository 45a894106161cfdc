"""Machines we do not have, as the files that the kernel would show of them.

Numbering follows the real ones: Linux on x86 numbers one thread of every core first, socket by
socket, and then the second threads in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL_NAMES = {"xeon": "Intel(R) Xeon(R) Gold 6448Y", "epyc": "AMD EPYC 7763 64-Core Processor"}


def spelt(cpus: Sequence[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


@dataclass(frozen=True)
class Recorded:
    """A machine of equal sockets of equal nodes of equal caches of equal cores."""

    model_name: str
    sockets: int
    nodes_per_socket: int
    caches_per_node: int
    cores_per_cache: int
    smt: bool = False
    offline: frozenset[int] = frozenset()
    allowed: str | None = None
    mems_allowed: str | None = None
    quota: str | None = None
    cpuset: str | None = None
    empty_nodes: frozenset[int] = frozenset()

    @property
    def cores(self) -> int:
        return self.sockets * self.nodes_per_socket * self.caches_per_node * self.cores_per_cache

    def siblings(self, core: int) -> list[int]:
        return [core, core + self.cores] if self.smt else [core]

    def cpus_of(self, cores: Sequence[int]) -> list[int]:
        found = [cpu for core in cores for cpu in self.siblings(core)]
        return [cpu for cpu in found if cpu not in self.offline]

    def write(self, root: Path) -> Path:
        files = self._processor() | self._limits() | self._nodes()
        for core in range(self.cores):
            for cpu in self.siblings(core):
                files |= self._cpu(cpu, core)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return root

    def _processor(self) -> dict[str, str]:
        everything = self.cpus_of(range(self.cores))
        return {
            "proc/cpuinfo": f"processor\t: 0\nmodel name\t: {self.model_name}\nflags\t\t: avx2 fma",
            "sys/devices/system/cpu/online": spelt(everything),
        }

    def _limits(self) -> dict[str, str]:
        last = self.cores * (2 if self.smt else 1) - 1
        nodes = self.sockets * self.nodes_per_socket
        files = {
            "proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{self.allowed or f'0-{last}'}\n"
            f"Mems_allowed_list:\t{self.mems_allowed or f'0-{nodes - 1}'}",
            "proc/self/cgroup": "0::/",
            "proc/self/mountinfo": "35 25 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        }
        if self.quota:
            files["sys/fs/cgroup/cpu.max"] = self.quota
        if self.cpuset:
            files["sys/fs/cgroup/cpuset.cpus.effective"] = self.cpuset
        return files

    def _nodes(self) -> dict[str, str]:
        files = {}
        nodes = self.sockets * self.nodes_per_socket
        per_node = self.cores // nodes
        for node in range(nodes):
            folder = f"sys/devices/system/node/node{node}"
            members = self.cpus_of(range(node * per_node, (node + 1) * per_node))
            files[f"{folder}/cpulist"] = spelt(members)
            size = 0 if node in self.empty_nodes else 64 << 20
            files[f"{folder}/meminfo"] = f"Node {node} MemTotal:       {size} kB"
            files[f"{folder}/distance"] = " ".join(
                str(
                    10
                    if other == node
                    else 12
                    if other // self.nodes_per_socket == node // self.nodes_per_socket
                    else 21
                )
                for other in range(nodes)
            )
        return files

    def _cpu(self, cpu: int, core: int) -> dict[str, str]:
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        if cpu in self.offline:  # an offline CPU keeps its folder and loses its topology
            return {f"{folder}/online": "0"}
        cache = core // self.cores_per_cache
        mates = self.cpus_of(
            range(cache * self.cores_per_cache, (cache + 1) * self.cores_per_cache)
        )
        own = self.cpus_of([core])
        package = core // (self.cores // self.sockets)
        files = {
            f"{folder}/topology/physical_package_id": str(package),
            f"{folder}/topology/thread_siblings_list": spelt(own),
        }
        for index, (level, kind, size, shared) in enumerate(
            [(1, "Data", "48K", own), (2, "Unified", "2048K", own), (3, "Unified", "32M", mates)]
        ):
            files |= {
                f"{folder}/cache/index{index}/level": str(level),
                f"{folder}/cache/index{index}/type": kind,
                f"{folder}/cache/index{index}/size": size,
                f"{folder}/cache/index{index}/shared_cpu_list": spelt(shared),
            }
        return files


XEON_SNC2 = Recorded(MODEL_NAMES["xeon"], 2, 2, 1, 16, smt=True)
"""Two sockets of 32 cores, sub-NUMA clustering in halves, SMT: 64 cores, 128 CPUs."""

EPYC = Recorded(MODEL_NAMES["epyc"], 1, 1, 8, 8)
"""One socket of 64 cores, SMT off, eight core complexes with an L3 each."""

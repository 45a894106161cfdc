"""Slots: the parts of a machine that one worker each runs on.

By default a slot is a socket, on machines with several NUMA nodes per socket a node; or the CPUs
below one last-level cache; or the machine is cut into a given number of slots. A physical core is
never divided: its siblings compete for the same execution units, so two workers on them would share
a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from cluster.errors import PlacementError
from cluster.topology.tree import Cpu, Topology

Boundary = Literal["machine", "socket", "node", "cache", "core"]
"""Where slots are cut: one slot per ... of the machine."""

_KEYS: dict[Boundary, Callable[[Cpu], object]] = {
    "machine": lambda cpu: 0,
    "socket": lambda cpu: cpu.socket,
    "node": lambda cpu: (cpu.socket, cpu.node),
    "cache": lambda cpu: (cpu.socket, cpu.node, cpu.cache),
    "core": lambda cpu: (cpu.socket, cpu.node, cpu.cache, cpu.core),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one worker runs.

    `cpus` are the ids its threads may run on, `cores` the physical cores they belong to, `threads`
    how many threads to run (fewer than CPUs under a time quota), `memory_nodes` the NUMA nodes its
    memory should come from.
    """

    name: str
    cpus: tuple[int, ...]
    cores: tuple[int, ...]
    threads: int
    nodes: tuple[int, ...]
    sockets: tuple[int, ...]
    memory_nodes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} (CPUs {cpu_list(self.cpus)})"


def divide(
    topology: Topology, by: Boundary | int = "node", *, smt: bool = True
) -> tuple[Slot, ...]:
    """Cut the machine into slots at every boundary `by`, or into `by` slots of similar size.

    A number of slots is cut at the widest boundaries that allow it: two slots on a machine of two
    sockets are its sockets. With `smt` False one CPU per core runs threads; its siblings stay idle.
    Under a time quota, every slot gets its share of it as `threads`, in whole threads, because a
    thread beyond the quota stops the whole process for the rest of a period; where not even one
    thread per slot is left, fewer and larger slots are cut.

    Raises `PlacementError` where a number of slots is asked for that the machine does not have.
    """
    available = topology.cores
    if topology.shared and topology.quota is not None:
        available = max(1, min(available, int(topology.quota)))
    if isinstance(by, int):
        if not 1 <= by <= available:
            limit = "the time quota allows" if topology.shared else "this process may use"
            raise PlacementError(
                f"{by} slots do not fit: {limit} {available} "
                f"{'core' if available == 1 else 'cores'} of this machine, and a slot needs one"
            )
        groups = _cut(list(topology.cpus), by, list(_KEYS))
    else:
        groups = _grouped(topology.cpus, by)
        if len(groups) > available:
            groups = _cut(list(topology.cpus), available, list(_KEYS))
    threads = _threads(topology, groups, smt)
    name = "slot" if isinstance(by, int) else by
    return tuple(
        _slot(topology, f"{name}{index}", group, count, smt)
        for index, (group, count) in enumerate(zip(groups, threads, strict=True))
    )


def cpu_list(cpus: Iterable[int]) -> str:
    """CPU ids in the kernel's list format: `0-3,8`."""
    parts: list[str] = []
    runs = groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0])
    for _, run in runs:
        members = [member for _, member in run]
        first, last = members[0], members[-1]
        parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)


def _grouped(cpus: Iterable[Cpu], boundary: Boundary) -> list[list[Cpu]]:
    """CPUs, which come in the order of their position, by boundary."""
    return [list(group) for _, group in groupby(cpus, key=_KEYS[boundary])]


def _cut(cpus: list[Cpu], count: int, boundaries: list[Boundary]) -> list[list[Cpu]]:
    """`count` parts of `cpus`, cut at the first of `boundaries` where possible, else further in."""
    if count == 1:
        return [cpus]
    domains = _grouped(cpus, boundaries[0])
    if len(domains) >= count:
        return _joined(domains, count)
    parts: list[list[Cpu]] = []
    for domain, share in zip(domains, _shares(domains, count), strict=True):
        parts += _cut(domain, share, boundaries[1:])
    return parts


def _joined(domains: list[list[Cpu]], count: int) -> list[list[Cpu]]:
    """Neighbouring domains joined into `count` parts of similar size."""
    parts: list[list[Cpu]] = []
    left = sum(map(len, domains))
    position = 0
    for index in range(count):
        must_leave = count - index - 1
        part: list[Cpu] = list(domains[position])
        position += 1
        wanted = left / (count - index)
        while (
            len(domains) - position > must_leave
            and len(part) + len(domains[position]) / 2 <= wanted
        ):
            part += domains[position]
            position += 1
        left -= len(part)
        parts.append(part)
    parts[-1] += [cpu for domain in domains[position:] for cpu in domain]
    return parts


def _shares(domains: list[list[Cpu]], count: int) -> list[int]:
    """How many of `count` parts each domain gets: one at least, by cores, at most its cores."""
    cores = [len({cpu.core for cpu in domain}) for domain in domains]
    shares = [1] * len(domains)
    for _ in range(count - len(domains)):
        room = [index for index in range(len(domains)) if shares[index] < cores[index]]
        shares[max(room, key=lambda index: cores[index] / shares[index])] += 1
    return shares


def _threads(topology: Topology, groups: list[list[Cpu]], smt: bool) -> list[int]:
    """Threads of each slot: its CPUs, or its share of the time quota by largest remainder."""
    sizes = [len(group) if smt else len({cpu.core for cpu in group}) for group in groups]
    if topology.quota is None or int(topology.quota) >= sum(sizes):
        return sizes
    quota = max(int(topology.quota), len(groups))
    exact = [quota * size / sum(sizes) for size in sizes]
    threads = [max(1, int(value)) for value in exact]
    order = sorted(range(len(sizes)), key=lambda index: int(exact[index]) - exact[index])
    for index in order:
        if sum(threads) >= quota:
            break
        threads[index] += 1
    return threads


def _slot(topology: Topology, name: str, group: list[Cpu], threads: int, smt: bool) -> Slot:
    cpus = sorted(cpu.id for cpu in group)
    cores = sorted({cpu.core for cpu in group})
    if not smt:
        cpus = sorted(min(cpu.id for cpu in group if cpu.core == core) for core in cores)
    nodes = frozenset(cpu.node for cpu in group)
    return Slot(
        name=name,
        cpus=tuple(cpus),
        cores=tuple(cores),
        threads=threads,
        nodes=tuple(sorted(nodes)),
        sockets=tuple(sorted({cpu.socket for cpu in group})),
        memory_nodes=tuple(sorted(topology.memory_near(nodes))),
    )

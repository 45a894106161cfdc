"""Putting this process on a slot of its own: lease, pin, memory policy, in this order.

Done before numba or the engine's threads exist; see the package's docstring.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import PlacementError
from cluster.topology import affinity, memory
from cluster.topology.leases import Lease, take_first
from cluster.topology.memory import MemoryPolicy
from cluster.topology.slots import Boundary, Slot, cpu_list, divide
from cluster.topology.tree import Topology, read_topology


@dataclass(frozen=True, slots=True)
class Placement:
    """A process on its slot; the lease lasts until it is released or the process ends."""

    lease: Lease
    topology: Topology
    policy: MemoryPolicy
    slots: tuple[Slot, ...]

    @property
    def slot(self) -> Slot:
        """The slot that is leased."""
        return self.lease.slot

    def report(self) -> dict[str, Any]:
        """What can be said of the placement now, for people and metrics; checked, not assumed."""
        threads = affinity.threads()
        wanted = frozenset(self.slot.cpus)
        strays = [thread.name for thread in threads if not thread.cpus <= wanted]
        pages = memory.locality()
        local = None if pages is None else pages.share(frozenset(self.slot.memory_nodes))
        return {
            "slot": self.slot.name,
            "cpus": cpu_list(self.slot.cpus),
            "sockets": list(self.slot.sockets),
            "nodes": list(self.slot.nodes),
            "worker_threads": self.slot.threads,
            "threads": len(threads),
            "strays": strays,
            "memory_policy": self.policy.mode,
            "memory_reason": self.policy.reason,
            "local_pages": local,
        }


def place(
    by: Boundary | int,
    owner: str,
    *,
    smt: bool = True,
    preferred: int = 0,
    patience_s: float = 0.0,
    folder: Path | None = None,
    among: Sequence[str] | None = None,
    topology: Topology | None = None,
) -> Placement:
    """Lease the first free slot of this machine and confine this process to it.

    `preferred` is the number of the slot to try first, `among` names the only ones to try,
    `topology` is the machine where this process is confined already and sees less of it. The
    arguments of `divide` and `take_first` mean what they mean there. Raises `PlacementError`.
    """
    topology = topology if topology is not None else read_topology()
    slots = divide(topology, by, smt=smt)
    tried = slots if among is None else [slot for slot in slots if slot.name in among]
    lease = take_first(tried, owner, folder, preferred=preferred, patience_s=patience_s)
    return _settled(lease, topology, slots)


def take_over(
    by: Boundary | int, owner: str, name: str, files: list[int], *, smt: bool = True
) -> Placement:
    """Confine this process to the slot called `name`, whose leased `files` another one has sent.

    Raises `PlacementError`, also where this process cuts no slot of that name.
    """
    topology = read_topology()
    slots = divide(topology, by, smt=smt)
    slot = next((slot for slot in slots if slot.name == name), None)
    if slot is None or len(slot.cores) != len(files):
        for file in files:
            os.close(file)
        raise PlacementError(f"a slot '{name}' with other cores was handed over; is not cut here")
    lease = Lease(slot, files, shared=True)
    lease.sign(owner)
    return _settled(lease, topology, slots)


def _settled(lease: Lease, topology: Topology, slots: tuple[Slot, ...]) -> Placement:
    try:
        affinity.pin(lease.slot.cpus)
        policy = memory.set_policy(lease.slot, topology)
    except BaseException:
        lease.release()
        raise
    return Placement(lease, topology, policy, slots)

"""A process that stands by for a worker: `python -m cluster.fleet.standby`, started by the worker.

To replace a process that was killed, Ray needs some three seconds before any code of ours runs.
A standby waits on the worker's slot, pinned, with everything imported and no model loaded. When the
worker ends without a word, which the kernel tells by the end of a pipe, it leases the slot that the
kernel has freed, loads and serves. It stands in until Serve's own successor is ready, see
`cluster.fleet.handover`, or until Serve wants none any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cluster
from cluster.errors import SlotTakenError
from cluster.topology import affinity
from cluster.topology.tree import Topology, read_topology

if TYPE_CHECKING:
    from cluster.fleet.handover import Offer
    from cluster.fleet.worker import FleetWorker

logger = logging.getLogger("packhorse.fleet")

_MODULES: Final = (
    "cluster.channel.inprocess",
    "cluster.fleet.directory_client",
    "cluster.fleet.handover",
    "cluster.fleet.worker",
    "cluster.repository",
    "cluster.worker.server",
    "engine.session",
)
"""What a worker imports until it serves, and with it everything that takes long."""

_LOOK_S: Final = 0.25
_ALONE_S: Final = 15.0
"""Silence of the directory after which the fleet counts as taken down."""

_COMPLETE_S: Final = 5.0
"""How long Serve must have had all the workers it wants before a stand-in leaves unasked: more than
it takes to notice that a replica has died."""


def import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment whose Python finds this package even where it is not installed."""
    own = str(Path(cluster.__path__[0]).parent)
    known = environment.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(dict.fromkeys([own, *filter(None, known)]))
    return {**environment, "PYTHONPATH": path}


class Standby:
    """The worker's end."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """Start a process with what it needs to stand in: see `_stand_by`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.fleet.standby"],
            stdin=subprocess.PIPE,
            env=import_path(os.environ),
            # What ends the worker by its group or its terminal must not end this one, too.
            start_new_session=True,
        )
        self._tell(order)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still waits."""
        return self._process.poll() is None

    def moved(self, directory: str) -> None:
        """The directory has another address now."""
        self._tell({"directory": directory})

    def close(self) -> None:
        """End it; the worker leaves in order."""
        self._tell({"end": True})
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died; `alive` says so
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


def _stand_by() -> tuple[dict[str, Any], Topology] | None:
    """Wait on stdin; what to stand in for and the machine, or None if the worker left in order.

    The first line is the order: `arguments`, `fleet`, `node`, `slot` and its `cpus`, the
    `usable` CPUs of the machine, and the address of the `directory`. Later ones change it.
    """
    line = sys.stdin.buffer.readline()
    if not line:
        return None
    order: dict[str, Any] = json.loads(line)
    os.sched_setaffinity(0, order["usable"])  # it was born on the worker's slot alone
    topology = read_topology()
    affinity.pin(order["cpus"])
    for module in _MODULES:
        import_module(module)
    for line in sys.stdin.buffer:
        order |= json.loads(line)
    return None if order.get("end") else (order, topology)


async def _stand_in(order: dict[str, Any], topology: Topology) -> None:
    from cluster.fleet.configuration import parse_arguments
    from cluster.fleet.handover import Offer
    from cluster.fleet.worker import FleetWorker

    arguments = parse_arguments(order["arguments"])

    async def resolve() -> str:
        return str(order["directory"])

    worker = FleetWorker(
        arguments, fleet=order["fleet"], node=order["node"], resolve=resolve, topology=topology
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await worker.start(only=order["slot"])
    except SlotTakenError as error:
        logger.info("nothing to stand in on: %s", error)
        return
    offer = Offer(arguments, worker.fleet, worker.lease)
    try:
        logger.warning("worker '%s' was killed; process %d stands in", worker.name, os.getpid())
        await _until_relieved(worker, offer, stop)
        await worker.close()
    finally:
        offer.close()


async def _until_relieved(worker: FleetWorker, offer: Offer, stop: asyncio.Event) -> None:
    complete_since: float | None = None
    while not (stop.is_set() or offer.wanted.is_set()):
        await asyncio.sleep(_LOOK_S)
        now = time.monotonic()
        if not worker.complete:
            complete_since = None
        elif complete_since is None:
            complete_since = now
        elif now - complete_since > _COMPLETE_S:
            logger.info("worker '%s': Serve wants no successor", worker.name)
            return
        if worker.unheard_s > _ALONE_S:
            logger.warning("worker '%s': the fleet has gone", worker.name)
            return


def main() -> None:
    """Stand by until the worker ends, and in if it was killed."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    found = _stand_by()
    if found is not None:
        asyncio.run(_stand_in(*found))


if __name__ == "__main__":
    main()

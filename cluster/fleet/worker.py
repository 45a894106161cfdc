"""A worker of a fleet, from an unplaced process to an announced endpoint. Knows nothing of Ray.

The order matters: lease a slot, pin every thread, set the memory policy, and only then import the
engine and numba, load and warm the models, open the endpoint, announce it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import FleetError, SlotTakenError
from cluster.fleet.configuration import FleetArguments
from cluster.fleet.secrets import fleet_secret
from cluster.fleet.standby import Standby
from cluster.topology.leases import Lease
from cluster.topology.placement import Placement, place, take_over

if TYPE_CHECKING:
    from cluster.fleet.directory_client import Announcer
    from cluster.fleet.handover import Predecessor
    from cluster.precision import PrecisionChoice
    from cluster.session import LoadProgress, Session
    from cluster.topology.tree import Topology
    from cluster.worker.server import EndpointServer

logger = logging.getLogger("packhorse.fleet")

_REGISTER_S = 30.0
_RELEASE_S = 2.0
_REPORT_EVERY_S = 2.0
"""How often threads and pages are looked at; reading `numa_maps` takes milliseconds."""

_STANDBY_AFTER_S = 0.25
"""From the start of a worker to that of its standby, whose imports take some of the slot's time:
enough for the worker's first answers, and little, because nobody stands in for it before."""

_STANDBY_EVERY_S = 30.0
"""At least so long from one start of a standby to the next, should it die."""

_STANDBY_LOOK_S = 0.5


class FleetWorker:
    """One worker. Belongs to one event loop's thread, which makes the engine's threads, too."""

    def __init__(
        self,
        arguments: FleetArguments,
        *,
        fleet: str,
        node: str,
        resolve: Callable[[], Awaitable[str]],
        topology: Topology | None = None,
    ) -> None:
        """A worker on the machine called `node`; `resolve` gives the directory's address.

        A process that was a standby and now stands in gives the machine's `topology`, because it
        sees only the slot that it was pinned to before it imported anything.
        """
        self.arguments = arguments
        self.fleet = fleet
        self.node = node
        self.stands_in = topology is not None
        self._topology = topology
        self.models: list[str] = []
        self.started_s = 0.0
        self._resolve = resolve
        self._placement: Placement | None = None
        self._server: EndpointServer | None = None
        self._announcer: Announcer | None = None
        self._standby: Standby | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._directory = ""
        self._placed: dict[str, Any] = {}
        self._looked = 0.0

    async def start(self, preferred: int = 0, *, only: str | None = None) -> None:
        """Come up, on slot number `preferred` if it is free, or on the one called `only`.

        Returns once the directory lists the worker. Raises `ClusterError` or `EngineError`; the
        slot is free again then.
        """
        began = time.monotonic()
        early = sorted({"numba", "engine.session"} & sys.modules.keys())
        if early and not self.stands_in:
            raise FleetError(
                f"{', '.join(early)} was imported before the process was pinned; a worker must be "
                "placed first"
            )
        predecessor = await self._predecessor()
        try:
            placement = self._placement = await self._place(preferred, only, predecessor)
            await self._open(placement, predecessor)
        except BaseException:
            await self.close()
            raise
        finally:
            if predecessor is not None:
                predecessor.close()
        self.started_s = time.monotonic() - began
        if self.arguments.standby:
            self._keeping = asyncio.create_task(self._keep_standby())
        logger.info("worker '%s' is ready after %.1f s", self.name, self.started_s)

    @property
    def name(self) -> str:
        """The worker's place, for people: node and slot."""
        slot = self._placement.slot.name if self._placement is not None else "unplaced"
        return f"{self.node}/{slot}"

    @property
    def lease(self) -> Lease:
        """The lease of the slot; raises `FleetError` before the start and after the end."""
        if self._placement is None:
            raise FleetError(f"worker '{self.name}' has no slot")
        return self._placement.lease

    @property
    def complete(self) -> bool:
        """Whether Serve has all the workers it wants, as the directory last said."""
        return self._announcer is not None and self._announcer.complete

    @property
    def unheard_s(self) -> float:
        """For how long the directory has not answered."""
        return self._announcer.unheard_s if self._announcer is not None else 0.0

    def check(self) -> None:
        """Raise `FleetError` unless the worker serves."""
        if self._server is None or self._announcer is None:
            raise FleetError(f"worker '{self.name}' does not serve")

    def report(self) -> dict[str, Any]:
        """What this worker is and does, as the directory shows it."""
        now = time.monotonic()
        if self._placement is not None and now - self._looked > _REPORT_EVERY_S:
            self._placed, self._looked = self._placement.report(), now
        counters = self._server.counters() if self._server is not None else {}
        return {
            **self._placed,
            **counters,
            "fleet": self.fleet,
            "node": self.node,
            "pid": os.getpid(),
            "stands_in": self.stands_in,
            "standby": self._standby.pid if self._standby and self._standby.alive else None,
            "repository_models": self.models,
            "started_s": round(self.started_s, 2),
        }

    async def close(self) -> None:
        """Withdraw, answer what gateways have sent, free everything."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._standby is not None:
            standby, self._standby = self._standby, None
            await asyncio.to_thread(standby.close)
        if self._announcer is not None:
            await self._announcer.close()
            self._announcer = None
        if self._server is not None:
            server, self._server = self._server, None
            await server.drain(self.arguments.drain_s)
            await server.close()
        if self._placement is not None:
            self._placement.lease.release()
            self._placement = None

    async def _predecessor(self) -> Predecessor | None:
        """A worker of this fleet that stands in and waits to be relieved."""
        if self.stands_in or not self.arguments.standby:
            return None
        from cluster.fleet.handover import Predecessor

        return await asyncio.to_thread(Predecessor.find, self.arguments, self.fleet)

    async def _place(
        self, preferred: int, only: str | None, predecessor: Predecessor | None
    ) -> Placement:
        """Lease and pin, on this very thread: memory policies are a thread's own."""
        arguments = self.arguments
        owner = f"fleet '{self.fleet}'"
        if predecessor is not None:
            return take_over(
                arguments.slots, owner, predecessor.slot, predecessor.files, smt=arguments.smt
            )
        # A process that was killed is still holding its slot when its pipes end.
        until = time.monotonic() + max(arguments.patience_s, _RELEASE_S if only else 0.0)
        while True:
            try:
                return place(
                    arguments.slots,
                    owner,
                    smt=arguments.smt,
                    preferred=preferred,
                    among=None if only is None else [only],
                    folder=Path(arguments.leases) if arguments.leases else None,
                    topology=self._topology,
                )
            except SlotTakenError:
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(0.05)

    async def _open(self, placement: Placement, predecessor: Predecessor | None) -> None:
        # Imported here, because numba sizes itself when it is imported: after the pinning.
        from cluster.channel.inprocess import EngineLoader, InProcessChannel
        from cluster.fleet.directory_client import Announcer
        from cluster.repository import Repository
        from cluster.worker.options import EndpointOptions, private_folder
        from cluster.worker.server import EndpointServer

        arguments = self.arguments
        secret = fleet_secret(arguments.secret_file)
        load = EngineLoader(
            arguments.isa,
            Path(arguments.cache_dir) if arguments.cache_dir else None,
            arguments.refine,
            arguments.precision,
        )

        def load_on_slot(
            path: Path, *, threads: int | None, progress: LoadProgress, precision: PrecisionChoice
        ) -> Session:
            own = placement.slot.threads
            count = min(threads or own, own)
            return load(path, threads=count, progress=progress, precision=precision)

        number = [slot.name for slot in placement.slots].index(placement.slot.name)
        options = EndpointOptions(
            self.name,
            folder=(
                None
                if arguments.sockets is False
                else private_folder(Path(arguments.sockets) if arguments.sockets else None)
            ),
            tcp=f"{arguments.listen}:{arguments.port + number if arguments.port else 0}",
            advertise=arguments.advertise,
            secret=secret,
            credits=arguments.credits,
            depth=arguments.depth,
            shared_bytes=arguments.shared_bytes,
            stall_s=arguments.stall_s,
            limit_s=arguments.run_limit_s,
        )
        server = EndpointServer(InProcessChannel(load_on_slot, depth=arguments.depth), options)
        self.models = await server.preload(Repository(Path(arguments.repository)))
        if predecessor is not None:
            await predecessor.leave(arguments.drain_s + 5)
            placement.lease.shared = False
        endpoint = await server.open()
        self._server = server
        self._announcer = Announcer(endpoint, secret, self._find, self.report, self._drain)
        try:
            await asyncio.wait_for(self._announcer.registered.wait(), _REGISTER_S)
        except TimeoutError:
            raise FleetError(
                f"worker '{self.name}': the directory does not answer; is the shared secret the "
                "same on every machine?"
            ) from None

    async def _find(self) -> str:
        """The directory's address now; the standby learns of it, too."""
        self._directory = await self._resolve()
        if self._standby is not None:
            self._standby.moved(self._directory)
        return self._directory

    async def _keep_standby(self) -> None:
        """See that somebody stands by, also for a worker that itself stands in."""
        await asyncio.sleep(_STANDBY_AFTER_S)
        again = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= again and not (self._standby and self._standby.alive):
                if self._standby is not None:
                    logger.warning("the standby of worker '%s' has died", self.name)
                try:
                    self._standby = Standby(self._order())
                except OSError as error:  # too many processes, or no memory for one more
                    logger.warning("no standby for worker '%s': %s", self.name, error)
                again = now + _STANDBY_EVERY_S
            await asyncio.sleep(_STANDBY_LOOK_S)

    def _order(self) -> dict[str, Any]:
        """What a standby must know to stand in for this worker."""
        assert self._placement is not None
        return {
            "arguments": self.arguments.model_dump(),
            "fleet": self.fleet,
            "node": self.node,
            "slot": self._placement.slot.name,
            "cpus": list(self._placement.slot.cpus),
            "usable": [cpu.id for cpu in self._placement.topology.cpus],
            "directory": self._directory,
        }

    def _drain(self, wanted: bool) -> None:
        logger.info("worker '%s' %s", self.name, "drains" if wanted else "serves again")

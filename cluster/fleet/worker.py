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
from cluster.topology.placement import Placement, place

if TYPE_CHECKING:
    from cluster.fleet.directory import Announcer
    from cluster.session import LoadProgress, Session
    from cluster.worker.server import EndpointServer

logger = logging.getLogger("packhorse.fleet")

_REGISTER_S = 30.0
_REPORT_EVERY_S = 2.0
"""How often threads and pages are looked at; reading `numa_maps` takes milliseconds."""


class FleetWorker:
    """One worker. Belongs to one event loop's thread, which makes the engine's threads, too."""

    def __init__(
        self,
        arguments: FleetArguments,
        *,
        fleet: str,
        node: str,
        resolve: Callable[[], Awaitable[str]],
    ) -> None:
        """A worker on the machine called `node`; `resolve` gives the directory's address."""
        self.arguments = arguments
        self.fleet = fleet
        self.node = node
        self.models: list[str] = []
        self.started_s = 0.0
        self._resolve = resolve
        self._placement: Placement | None = None
        self._server: EndpointServer | None = None
        self._announcer: Announcer | None = None
        self._placed: dict[str, Any] = {}
        self._looked = 0.0

    async def start(self, preferred: int = 0) -> None:
        """Come up, on slot number `preferred` if it is free.

        Returns once the directory lists the worker. Raises `ClusterError` or `EngineError`; the
        slot is free again then.
        """
        began = time.monotonic()
        early = sorted({"numba", "engine.session"} & sys.modules.keys())
        if early:
            raise FleetError(
                f"{', '.join(early)} was imported before the process was pinned; a worker must be "
                "placed first"
            )
        placement = self._placement = await self._place(preferred)
        try:
            await self._open(placement)
        except BaseException:
            await self.close()
            raise
        self.started_s = time.monotonic() - began
        logger.info("worker '%s' is ready after %.1f s", self.name, self.started_s)

    @property
    def name(self) -> str:
        """The worker's place, for people: node and slot."""
        slot = self._placement.slot.name if self._placement is not None else "unplaced"
        return f"{self.node}/{slot}"

    def check(self) -> None:
        """Raise `FleetError` unless the worker is where it should be and serves."""
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
            "repository_models": self.models,
            "started_s": round(self.started_s, 2),
        }

    async def close(self) -> None:
        """Withdraw, answer what gateways have sent, free everything."""
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

    async def _place(self, preferred: int) -> Placement:
        """Lease and pin, on this very thread: memory policies are a thread's own."""
        arguments = self.arguments
        until = time.monotonic() + arguments.patience_s
        while True:
            try:
                return place(
                    arguments.slots,
                    f"fleet '{self.fleet}'",
                    smt=arguments.smt,
                    preferred=preferred,
                    folder=Path(arguments.leases) if arguments.leases else None,
                )
            except SlotTakenError:
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(0.05)

    async def _open(self, placement: Placement) -> None:
        # Imported here, because numba sizes itself when it is imported: after the pinning.
        from cluster.channel.inprocess import EngineLoader, InProcessChannel
        from cluster.fleet.directory import Announcer
        from cluster.repository import Repository
        from cluster.worker.options import EndpointOptions, private_folder
        from cluster.worker.server import EndpointServer

        arguments = self.arguments
        secret = fleet_secret(arguments.secret_file)
        load = EngineLoader(
            arguments.isa, Path(arguments.cache_dir) if arguments.cache_dir else None
        )

        def load_on_slot(path: Path, *, threads: int | None, progress: LoadProgress) -> Session:
            own = placement.slot.threads
            return load(path, threads=min(threads or own, own), progress=progress)

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
        )
        server = EndpointServer(InProcessChannel(load_on_slot, depth=arguments.depth), options)
        self.models = await server.preload(Repository(Path(arguments.repository)))
        endpoint = await server.open()
        self._server = server
        self._announcer = Announcer(endpoint, secret, self._resolve, self.report, self._drain)
        try:
            await asyncio.wait_for(self._announcer.registered.wait(), _REGISTER_S)
        except TimeoutError:
            raise FleetError(
                f"worker '{self.name}': the directory does not answer; is the shared secret the "
                "same on every machine?"
            ) from None

    def _drain(self, wanted: bool) -> None:
        logger.info("worker '%s' %s", self.name, "drains" if wanted else "serves again")

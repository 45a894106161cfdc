"""What the routes of one gateway share."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import PackageNotFoundError, version

from api.batching.scheduler import Scheduler
from api.errors import OverloadedError
from api.gateway.sequences import Sequences
from api.protocol.limits import Limits
from api.settings import Settings
from api.statistics import Statistics
from cluster.catalog import Catalog, CatalogProgress
from cluster.channel import Channel
from cluster.repository import Repository

logger = logging.getLogger("packhorse.gateway")


def server_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("packhorse")
    except PackageNotFoundError:
        return "0"


class BodyBudget:
    """Bounds the bytes of request bodies held at one time, over all connections."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserve `size` bytes; raises `OverloadedError` if they are not free."""
        if self.used + size > self._limit:
            raise OverloadedError(
                f"requests in progress hold {self.used} bytes, the limit is {self._limit}; "
                "try again later",
                retry_after=1,
            )
        self.used += size

    def give(self, size: int) -> None:
        """Return a reservation."""
        self.used -= size


class Gateway:
    """Settings, models, batching and counters of one server."""

    def __init__(
        self,
        settings: Settings,
        channel: Channel,
        repository: Repository,
        on_progress: CatalogProgress | None = None,
    ) -> None:
        self.settings = settings
        self.channel = channel
        self.catalog = Catalog(
            repository,
            channel,
            threads=settings.threads,
            precision=settings.precision,
            on_progress=on_progress,
        )
        self.statistics = Statistics()
        self.scheduler = Scheduler(channel, self.statistics, settings)
        self.sequences = Sequences(
            settings.sequence_idle_s, settings.max_sequences, settings.max_sequence_bytes
        )
        self.budget = BodyBudget(settings.max_buffered_bytes)
        self.limits = Limits(settings.max_json_depth, settings.max_elements)
        self.draining = False
        self.failures: dict[str, str] = {}
        self._loading: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every model of the repository serves and no shutdown has begun."""
        return self.catalog.ready and not self.draining

    def start(self) -> None:
        """Begin to load the models; the server answers meanwhile, but is not ready."""
        self._loading = asyncio.create_task(self._load())

    async def loaded(self) -> dict[str, str]:
        """Wait for the models; returns the error of each that failed to load."""
        if self._loading is not None:
            await asyncio.shield(self._loading)
        return self.failures

    async def close(self) -> None:
        """Answer what was accepted, then free the models."""
        self.draining = True
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.catalog.close()
        await self.channel.close()

    async def _load(self) -> None:
        self.failures = await self.catalog.load_all()
        for name, reason in self.failures.items():
            logger.error("model '%s' does not serve: %s", name, reason)

"""The models of a worker, each loaded once however many gateways hold it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from cluster.channel import Batch, Channel, ModelKey, ModelSource
from cluster.description import ModelDescription
from cluster.errors import LoadError
from cluster.precision import PrecisionChoice
from cluster.repository import Repository
from cluster.session import LoadProgress, Tensors

_MOST_FILES: Final = 10_000

Identity = tuple[object, ...]


def identity(source: ModelSource) -> Identity:
    """What two sources have in common that make the same session.

    The files beside the model belong to it, because weights may lie in files of their own. Raises
    `OSError` if the model cannot be looked at.
    """
    path = source.path.resolve(strict=True)
    files = []
    for file in islice(sorted(path.parent.iterdir()), _MOST_FILES):
        status = file.stat()
        files.append((file.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return (path, source.threads, source.precision, tuple(files))


@dataclass(eq=False, slots=True)
class HeldModel:
    """A session shared by all who hold it."""

    identity: Identity
    key: ModelKey
    holders: int = 0
    listeners: list[LoadProgress] = field(default_factory=list)
    loading: asyncio.Task[ModelDescription] | None = None


class SharedModels:
    """Loads, shares and frees sessions. Belongs to one event loop's thread."""

    def __init__(self, channel: Channel) -> None:
        """Keep the sessions in `channel`, which is in this process."""
        self._channel = channel
        self._held: dict[Identity, HeldModel] = {}
        self._generation = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(
        self, key: ModelKey, source: ModelSource, progress: LoadProgress
    ) -> tuple[HeldModel, ModelDescription]:
        """Hold the session of `source`, loaded now unless somebody holds it already.

        The key only lends its name to messages. Raises `LoadError`.
        """
        where = f"model '{key.name}' version {key.version}"
        try:
            what = identity(source)
        except OSError as error:
            raise LoadError(
                f"{where}: {source.path}: {error.strerror or error}; workers read models under the "
                "same path as the gateway"
            ) from None
        held = self._held.get(what)
        if held is None:
            self._generation += 1
            own = ModelKey(key.name, key.version, self._generation)
            held = self._held[what] = HeldModel(what, own)
            held.loading = asyncio.create_task(
                self._channel.load(own, source, lambda *step: _tell(held, *step))
            )
        held.holders += 1
        if held.loading is None:
            return held, self._channel.describe(held.key)
        held.listeners.append(progress)
        try:
            description = await asyncio.shield(held.loading)
        except BaseException as error:
            self.release(held)
            if isinstance(error, asyncio.CancelledError) and held.loading.cancelled():
                raise LoadError(f"{where}: the load was given up") from None
            raise
        held.listeners.remove(progress)
        held.loading = None
        return held, description

    def release(self, held: HeldModel) -> asyncio.Task[None] | None:
        """Let go of a session; the last one to do so frees it by the task that is returned."""
        held.holders -= 1
        if held.holders:
            return None
        if self._held.get(held.identity) is held:
            del self._held[held.identity]
        if held.loading is not None and not held.loading.done():
            held.loading.cancel()
        task = asyncio.create_task(self._free(held))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def submit(self, held: HeldModel, batch: Batch) -> asyncio.Future[Tensors]:
        """Run a batch, whatever key it names, on a session."""
        return self._channel.submit(replace(batch, key=held.key))

    def describe(self, held: HeldModel) -> ModelDescription:
        """What a session that is held takes and gives."""
        return self._channel.describe(held.key)

    def stats(self, held: HeldModel) -> dict[str, int | float]:
        """Counters of a session."""
        return dict(self._channel.stats(held.key))

    def all_stats(self) -> dict[str, dict[str, int | float]]:
        """Counters of every session, under the name and version that it was first loaded as."""
        return {f"{h.key.name}/{h.key.version}": self.stats(h) for h in self._held.values()}

    async def preload(self, repository: Repository, threads: int | None) -> list[str]:
        """Load what `repository` serves and keep it, so that gateways find it ready.

        Returns the names; raises `LoadError` or `RepositoryError`.
        """
        names = []
        for name, entry in repository.scan().items():
            config = entry.config()
            for version, path in sorted(entry.wanted(config).items()):
                source = ModelSource(
                    path,
                    config.threads if config.threads is not None else threads,
                    tuple(config.warmup),
                    config.precision_choice,
                )
                await self.acquire(ModelKey(name, version, 0), source, lambda *step: None)
            names.append(name)
        return names

    async def close(self) -> None:
        """Finish running batches and free everything."""
        await asyncio.gather(*self._closing)
        await self._channel.close()

    async def _free(self, held: HeldModel) -> None:
        if held.loading is not None:
            # Also fetches the error of a load that nobody waits for any more.
            await asyncio.gather(held.loading, return_exceptions=True)
        await self._channel.unload(held.key)


def _tell(held: HeldModel, stage: str, done: int, total: int) -> None:
    """Called from the thread that loads."""
    for listener in list(held.listeners):
        listener(stage, done, total)


def source_from(
    path: str, threads: object, warmup: object, precision: object
) -> ModelSource | None:
    """The source that a message describes, None if it describes none."""
    if not (threads is None or (type(threads) is int and 0 < threads <= 4096)):
        return None
    if not isinstance(warmup, list) or "\0" in path or not Path(path).is_absolute():
        return None
    for sizes in warmup:
        if not isinstance(sizes, dict):
            return None
        for shape in sizes.values():
            if not isinstance(shape, list) or not all(type(dim) is int for dim in shape):
                return None
    choice = PrecisionChoice.read(precision)
    return None if choice is None else ModelSource(Path(path), threads, tuple(warmup), choice)

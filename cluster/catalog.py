"""The catalog: which model versions serve now, and how that changes without a gap.

A load is atomic: load, warm, switch, drain, unload. The new incarnation is loaded and warmed
beside the old one; then the name points to the new one in a single assignment; requests that hold
the old one finish on it; then it is unloaded. If anything fails before the switch, the old one
serves on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.channel import Channel, ModelKey, ModelSource
from cluster.config import ModelConfig
from cluster.description import ModelDescription
from cluster.errors import (
    ClusterError,
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
)
from cluster.ragged import RaggedAxes
from cluster.repository import VERSION, Repository, RepositoryEntry
from cluster.session import Tensor
from engine.errors import InputError

logger = logging.getLogger("packhorse.cluster")

CatalogProgress = Callable[[str, str, int, int], None]
"""Called with (model, stage, done, total); on the event loop's thread."""


class ModelState(StrEnum):
    """State of a model version, in the words of the repository index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index; `version` is empty while none is known."""

    name: str
    version: str
    state: ModelState
    reason: str


class ServedModel:
    """A loaded incarnation that requests run on. Entering it keeps it loaded until the exit."""

    def __init__(self, key: ModelKey, description: ModelDescription, config: ModelConfig) -> None:
        self.key = key
        self.description = description
        self.config = config
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.key.name

    @property
    def version(self) -> str:
        """Version as the protocol writes it."""
        return str(self.key.version)

    @property
    def ragged(self) -> RaggedAxes | None:
        """The axes in which requests of a batch may differ, None where in the first alone."""
        return self.description.ragged if self.config.ragged else None

    def admit(self, inputs: Mapping[str, Tensor]) -> None:
        """Raise `InputError` unless a request fits the model and its largest admitted shape."""
        self.description.check(self.name, inputs)
        for name, limits in self.config.largest.items():
            shape = inputs[name].shape
            if any(size > limit for size, limit in zip(shape, limits, strict=True)):
                raise InputError(
                    f"model '{self.name}', input '{name}': shape {list(shape)} is larger than "
                    f"{limits}, the largest that its model.yaml admits"
                )

    def __enter__(self) -> Self:
        self._users += 1
        self._unused.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._users -= 1
        if self._users == 0:
            self._unused.set()

    async def drained(self) -> None:
        """Wait until no request holds this incarnation."""
        await self._unused.wait()


@dataclass(slots=True)
class _Model:
    """What the catalog knows of one name."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    serving: dict[int, ServedModel] = field(default_factory=dict)
    states: dict[int, tuple[ModelState, str]] = field(default_factory=dict)
    failure: str = ""


class Catalog:
    """Serves the models of a repository through a channel."""

    def __init__(
        self,
        repository: Repository,
        channel: Channel,
        *,
        threads: int | None = None,
        precision: str | None = None,
        on_progress: CatalogProgress | None = None,
    ) -> None:
        """`threads` and `precision` are for models whose configuration names none."""
        self.repository = repository
        self.channel = channel
        self.ready = False
        self._threads = threads
        self._precision = precision
        self._on_progress = on_progress
        self._models: dict[str, _Model] = {}
        self._generation = 0
        self._retiring: set[asyncio.Task[None]] = set()

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The incarnation that serves `name`, by default in its highest version.

        Use it as a context manager while a request runs on it, without an `await` before.
        Raises `ModelNotFoundError` or `ModelUnavailableError`.
        """
        model = self._models.get(name)
        if model is not None and model.serving:
            if version is None:
                return model.serving[max(model.serving)]
            if VERSION.fullmatch(version) and (served := model.serving.get(int(version))):
                return served
        raise self._missing(name, version)

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of `name` that serve, lowest first."""
        return tuple(str(version) for version in sorted(self._models[name].serving))

    def served(self) -> list[ServedModel]:
        """Every incarnation that serves, by name and version."""
        return [
            model.serving[version]
            for _, model in sorted(self._models.items())
            for version in sorted(model.serving)
        ]

    def index(self) -> list[IndexEntry]:
        """Every model of the repository and its state, for the repository index."""
        entries = []
        for name in sorted(self._models.keys() | self.repository.scan().keys()):
            model = self._models.get(name)
            if model is None or not model.states:
                reason = model.failure if model is not None else ""
                entries.append(IndexEntry(name, "", ModelState.UNAVAILABLE, reason))
            else:
                for version, (state, reason) in sorted(model.states.items()):
                    entries.append(IndexEntry(name, str(version), state, reason))
        return entries

    async def load_all(self) -> dict[str, str]:
        """Load every model of the repository; returns the error of each that failed.

        `ready` turns true once all of them serve.
        """
        failures: dict[str, str] = dict(self.repository.problems)
        for name in self.repository.scan():
            try:
                await self.load(name)
            except ClusterError as error:
                failures[name] = str(error)
        self.ready = not failures
        return failures

    async def load(self, name: str, config: ModelConfig | None = None) -> None:
        """Load, or reload, the versions of a model that its configuration asks for.

        `config` takes the place of the `model.yaml`. Raises `ModelNotFoundError`, `RepositoryError`
        or `LoadError`; the versions that served before then serve on.
        """
        entry = self.repository.entry(name)
        model = self._models.setdefault(name, _Model())
        async with model.lock:
            try:
                await self._load(entry, model, config)
            except ClusterError as error:
                model.failure = str(error)
                logger.warning("loading model '%s' failed: %s", name, error)
                raise

    async def unload(self, name: str) -> None:
        """Stop serving a model, finish its requests, free it.

        Raises `ModelNotFoundError` for a name the repository does not have either.
        """
        model = self._models.get(name)
        if model is None:
            self.repository.entry(name)
            return
        async with model.lock:
            leaving, model.serving = model.serving, {}
            for version in leaving:
                model.states[version] = (ModelState.UNLOADING, "")
            await asyncio.gather(*(self._retire(served) for served in leaving.values()))
            for version in leaving:
                model.states[version] = (ModelState.UNAVAILABLE, "unloaded")
            logger.info("unloaded model '%s'", name)

    async def close(self) -> None:
        """Unload everything after the requests in flight."""
        self.ready = False
        for name in list(self._models):
            await self.unload(name)
        await asyncio.gather(*self._retiring)

    async def _load(
        self, entry: RepositoryEntry, model: _Model, override: ModelConfig | None
    ) -> None:
        config = override if override is not None else entry.config()
        wanted = entry.wanted(config)
        before = dict(model.states)
        for version in wanted:
            if version not in model.serving:
                model.states[version] = (ModelState.LOADING, "")
        fresh: dict[int, ServedModel] = {}
        try:
            for version, path in sorted(wanted.items()):
                fresh[version] = await self._load_version(entry.name, version, path, config)
        except BaseException as error:
            model.states = before
            if isinstance(error, ClusterError):
                for version in wanted.keys() - model.serving.keys():
                    model.states[version] = (ModelState.UNAVAILABLE, str(error))
            for served in fresh.values():
                await self.channel.unload(served.key)
            raise
        leaving, model.serving = model.serving, fresh
        model.failure = ""
        model.states = dict.fromkeys(fresh, (ModelState.READY, ""))
        for version, served in leaving.items():
            if version not in fresh:
                model.states[version] = (ModelState.UNAVAILABLE, "replaced by another version")
            task = asyncio.create_task(self._retire(served))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        logger.info("loaded model '%s', versions %s", entry.name, sorted(fresh))

    async def _load_version(
        self, name: str, version: int, path: Path, config: ModelConfig
    ) -> ServedModel:
        self._generation += 1
        key = ModelKey(name, version, self._generation)
        threads = config.threads if config.threads is not None else self._threads
        loop = asyncio.get_running_loop()

        def progress(stage: str, done: int, total: int) -> None:
            if self._on_progress is not None:
                loop.call_soon_threadsafe(self._on_progress, name, stage, done, total)

        precision = config.precision_choice.or_else(self._precision)
        source = ModelSource(path, threads, tuple(config.warmup), precision)
        description = await self.channel.load(key, source, progress)
        wrong = _wrong_state(config, description)
        if wrong:
            await self.channel.unload(key)
            raise RepositoryError(f"model '{name}': model.yaml: state: {wrong}")
        ranks = {tensor.name: len(tensor.shape) for tensor in description.inputs}
        for tensor, limits in config.largest.items():
            if ranks.get(tensor) != len(limits):
                await self.channel.unload(key)
                raise RepositoryError(
                    f"model '{name}': model.yaml gives {limits} as the largest '{tensor}', "
                    f"but the model's inputs have these ranks: {ranks}"
                )
        return ServedModel(key, description, config)

    async def _retire(self, served: ServedModel) -> None:
        await served.drained()
        await self.channel.unload(served.key)

    def _missing(self, name: str, version: str | None) -> ClusterError:
        model = self._models.get(name)
        if model is None:
            if name in self.repository.scan():
                return ModelUnavailableError(f"model '{name}' is not loaded")
            return ModelNotFoundError(f"unknown model '{name}'; {_known(self._models)}")
        if version is None:
            return ModelUnavailableError(
                f"model '{name}' is not ready" + (f": {model.failure}" if model.failure else "")
            )
        if VERSION.fullmatch(version) and (state := model.states.get(int(version))):
            detail = f" ({state[1]})" if state[1] else ""
            return ModelUnavailableError(
                f"model '{name}' version {version} is {state[0].lower()}{detail}"
            )
        return ModelNotFoundError(
            f"model '{name}' has no version {version[:40]!r}; "
            f"it serves {', '.join(self.versions(name)) or 'none'}"
        )


def _wrong_state(config: ModelConfig, description: ModelDescription) -> str:
    """What is wrong with the state that a configuration names; empty where nothing is."""
    inputs = {tensor.name: tensor for tensor in description.inputs}
    outputs = {tensor.name: tensor for tensor in description.outputs}
    for given, made in config.state.items():
        if given not in inputs:
            return f"there is no input '{given}'; the inputs are {', '.join(inputs)}"
        if made not in outputs:
            return f"there is no output '{made}'; the outputs are {', '.join(outputs)}"
        if inputs[given].dtype != outputs[made].dtype:
            return f"input '{given}' and output '{made}' are of different data types"
    return ""


def _known(models: Mapping[str, _Model]) -> str:
    names = [f"'{name}'" for name, model in sorted(models.items()) if model.serving]
    if not names:
        return "no model is loaded"
    shown = ", ".join(names[:10])
    return f"loaded models: {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")

"""A scheduler over an in-process channel whose worker can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.batching.pending import InferResult
from api.batching.scheduler import Scheduler
from api.settings import Settings
from api.statistics import ModelStatistics, Statistics
from cluster.catalog import Catalog, ServedModel
from cluster.channel.inprocess import InProcessChannel
from cluster.repository import Repository
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader


class Bench:
    """Everything a batching test needs, for one model."""

    def __init__(self, root: Path, model: Any, depth: int, **settings: Any) -> None:
        small_models.store(root, "model", model)
        self.loader = HeldLoader()
        self.channel = InProcessChannel(self.loader, depth=depth)
        self.catalog = Catalog(Repository(root), self.channel)
        self.counters = Statistics()
        self.scheduler = Scheduler(self.channel, self.counters, Settings(**settings))

    @property
    def model(self) -> ServedModel:
        return self.catalog.find("model")

    @property
    def statistics(self) -> ModelStatistics:
        return self.counters.of("model", "1")

    @property
    def runs(self) -> list[tuple[int, ...]]:
        """Input shape of every run, without the one that warmed the model."""
        return self.loader.sessions[0].runs[self._warm :]

    async def open(self) -> None:
        await self.catalog.load_all()
        self._warm = len(self.loader.sessions[0].runs)

    def send(self, array: np.ndarray, **options: Any) -> asyncio.Task[InferResult]:
        """Start a request on the model's only input; it asks for the only output."""
        model = self.model
        (spec,) = model.description.inputs
        return asyncio.create_task(
            self.scheduler.infer(model, {spec.name: array}, ["y"], **options)
        )

    async def occupy(self, array: np.ndarray) -> asyncio.Task[InferResult]:
        """Hold the worker and give it a request, so that what follows has to wait."""
        self.loader.hold()
        first = self.send(array)
        while self.channel.idle(self.model.key):
            await asyncio.sleep(0)
        return first

    async def settle(self, waiting: int) -> None:
        """Let the requests just sent arrive in their lanes."""
        for _ in range(200):
            if self.scheduler.waiting(self.model.key) == waiting:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{self.scheduler.waiting(self.model.key)} wait, not {waiting}")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[Bench] = []

    async def make(model: Any = None, depth: int = 1, **settings: Any) -> Bench:
        bench = Bench(tmp_path, model or small_models.identity(), depth, **settings)
        made.append(bench)
        await bench.open()
        return bench

    yield make
    for bench in made:
        bench.loader.release()
        await bench.catalog.close()
        await bench.channel.close()

"""The channel kinds that the suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.channel import Channel
from cluster.channel.inprocess import EngineLoader, InProcessChannel
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.discovery import EndpointList
from cluster.session import Loader
from cluster.worker.options import EndpointOptions, private_folder
from cluster.worker.server import EndpointServer
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader, load_reference

SECRET = "a secret for tests, long enough"


@dataclass
class Setup:
    """A channel, what holds its worker up, and a folder with models."""

    channel: Channel
    loader: HeldLoader
    folder: Path


@asynccontextmanager
async def in_process(loader: HeldLoader, folder: Path) -> AsyncIterator[Channel]:
    channel = InProcessChannel(loader)
    yield channel
    await channel.close()


@asynccontextmanager
async def networked(
    loader: HeldLoader, folder: Path, *, tcp: bool = False, shared_bytes: int = 1 << 20
) -> AsyncIterator[Channel]:
    """A gateway's end and one worker's end, on the loop of the test."""
    places: dict[str, Any] = {"folder": private_folder(folder / "sockets")}
    if tcp:
        places = {"tcp": "127.0.0.1:0", "secret": SECRET}
    options = EndpointOptions("test/0", **places, credits=1, shared_bytes=shared_bytes)
    server = EndpointServer(InProcessChannel(loader), options)
    endpoints = EndpointList([await server.open()])
    channel = NetworkedChannel(
        endpoints, NetworkOptions("test", SECRET, shared_bytes=shared_bytes, worker_wait_s=10)
    )
    yield channel
    await channel.close()
    await server.close()


Make = Callable[[HeldLoader, Path], AbstractAsyncContextManager[Channel]]

KINDS: dict[str, tuple[Make, Loader]] = {
    "inprocess-reference": (in_process, load_reference),
    "inprocess-engine": (in_process, EngineLoader()),
    "ipc-reference": (networked, load_reference),
    "ipc-engine": (networked, EngineLoader()),
    "ipc-unshared": (partial(networked, shared_bytes=0), load_reference),
    "tcp-reference": (partial(networked, tcp=True), load_reference),
}
"""A channel and what it loads models with, by the name of the pair."""


@pytest.fixture(params=KINDS)
async def setup(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setup]:
    make, load = KINDS[request.param]
    loader = HeldLoader(load)
    small_models.store(tmp_path, "scale", small_models.scale(2))
    small_models.store(tmp_path, "lookup", small_models.lookup())
    small_models.store(tmp_path, "sequences", small_models.sequences())
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    async with make(loader, tmp_path) as channel:
        yield Setup(channel, loader, tmp_path)
        loader.release()

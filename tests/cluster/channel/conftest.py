"""The channel kinds that the suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.channel import Channel
from cluster.channel.inprocess import EngineLoader, InProcessChannel
from cluster.session import Loader
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader, load_reference


@dataclass
class Setup:
    """A channel, what holds its worker up, and a folder with models."""

    channel: Channel
    loader: HeldLoader
    folder: Path


KINDS: dict[str, tuple[Callable[[HeldLoader], Channel], Loader]] = {
    "inprocess-reference": (InProcessChannel, load_reference),
    "inprocess-engine": (InProcessChannel, EngineLoader()),
}
"""A channel and what it loads models with, by the name of the pair."""


@pytest.fixture(params=KINDS)
async def setup(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setup]:
    make, load = KINDS[request.param]
    loader = HeldLoader(load)
    channel = make(loader)
    small_models.store(tmp_path, "scale", small_models.scale(2))
    small_models.store(tmp_path, "lookup", small_models.lookup())
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    yield Setup(channel, loader, tmp_path)
    loader.release()
    await channel.close()

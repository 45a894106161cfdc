"""The channel kinds that the suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.channel import Channel
from cluster.channel.inprocess import InProcessChannel
from tests.cluster import small_models
from tests.cluster.doubles import ReferenceLoader


@dataclass
class Setup:
    """A channel, what holds its worker up, and a folder with models."""

    channel: Channel
    loader: ReferenceLoader
    folder: Path


def _in_process(loader: ReferenceLoader) -> Channel:
    return InProcessChannel(loader)


KINDS: dict[str, Callable[[ReferenceLoader], Channel]] = {"inprocess": _in_process}


@pytest.fixture(params=KINDS)
async def setup(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setup]:
    loader = ReferenceLoader()
    channel = KINDS[request.param](loader)
    small_models.store(tmp_path, "scale", small_models.scale(2))
    small_models.store(tmp_path, "lookup", small_models.lookup())
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    yield Setup(channel, loader, tmp_path)
    loader.release()
    await channel.close()

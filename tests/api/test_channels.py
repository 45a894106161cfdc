"""The channel that the settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.channels import choose_channel
from api.settings import Settings
from cluster.channel.inprocess import InProcessChannel
from engine.refiner import Refiner
from engine.runner import Runner
from tests.engine.models import chain


@pytest.mark.parametrize("refine", [False, True])
def test_refinement_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refine: bool
) -> None:
    added: list[Runner] = []
    monkeypatch.setattr(Refiner, "add", lambda self, runner: added.append(runner))
    path = tmp_path / "m.onnx"
    path.write_bytes(chain(width=32, layers=2))
    settings = Settings(repository=path, refine=refine, cache_dir=tmp_path / "cache", threads=1)
    channel = choose_channel(settings, dict)
    assert isinstance(channel, InProcessChannel)
    session = channel._loader(path, threads=1, progress=lambda stage, done, total: None)
    try:
        assert len(added) == refine
    finally:
        session.close()

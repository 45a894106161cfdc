from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from cluster.catalog import Catalog, ModelState
from cluster.channel import Batch
from cluster.channel.inprocess import InProcessChannel
from cluster.config import ModelConfig
from cluster.errors import LoadError, ModelNotFoundError, ModelUnavailableError, RepositoryError
from cluster.precision import PrecisionChoice
from cluster.repository import Repository
from engine.errors import InputError
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader


class Fixture:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.loader = HeldLoader()
        small_models.store(root, "scale", small_models.scale(2))
        self.channel = InProcessChannel(self.loader)
        self.progress: list[tuple] = []
        self.catalog = Catalog(
            Repository(root),
            self.channel,
            on_progress=lambda *step: self.progress.append(step),
        )

    async def value(self, version: str | None = None) -> float:
        """What the model makes of 1: its factor."""
        with self.catalog.find("scale", version) as model:
            part = {"x": np.ones((1, 1), np.float32)}
            batch = Batch(model.key, [part], None, time.monotonic() + 10)
            return float((await self.channel.submit(batch))["y"][0, 0])

    def index(self) -> list[tuple]:
        return [(e.name, e.version, e.state, e.reason) for e in self.catalog.index()]


@pytest.fixture
async def fixture(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    fixture.loader.release()
    await fixture.catalog.close()
    await fixture.channel.close()


async def test_load_all(fixture: Fixture):
    assert not fixture.catalog.ready
    assert fixture.index() == [("scale", "", ModelState.UNAVAILABLE, "")]
    assert await fixture.catalog.load_all() == {}
    assert fixture.catalog.ready
    assert fixture.index() == [("scale", "1", ModelState.READY, "")]
    assert fixture.progress[0] == ("scale", "reading", 1, 1)
    assert await fixture.value() == await fixture.value("1") == 2


async def test_load_all_reports_what_failed(fixture: Fixture):
    small_models.store(fixture.root, "broken", small_models.identity()).write_bytes(b"no")
    failures = await fixture.catalog.load_all()
    assert list(failures) == ["broken"]
    assert not fixture.catalog.ready
    assert await fixture.value() == 2
    state = next(entry for entry in fixture.index() if entry[0] == "broken")
    assert state[2] is ModelState.UNAVAILABLE
    assert "model.onnx" in state[3]


async def test_reload_switches_and_then_frees_the_old_one(fixture: Fixture):
    await fixture.catalog.load_all()
    old = fixture.loader.sessions[-1]
    with fixture.catalog.find("scale"):
        small_models.store(fixture.root, "scale", small_models.scale(3))
        await fixture.catalog.load("scale")
        assert await fixture.value() == 3
        await asyncio.sleep(0.02)
        assert not old.closed, "a request still holds it"
    await asyncio.sleep(0.05)
    assert old.closed


async def test_a_new_version_replaces_the_old_one(fixture: Fixture):
    await fixture.catalog.load_all()
    small_models.store(fixture.root, "scale", small_models.scale(5), 2)
    await fixture.catalog.load("scale")
    assert await fixture.value() == 5
    assert fixture.catalog.versions("scale") == ("2",)
    with pytest.raises(ModelUnavailableError, match="version 1 is unavailable"):
        fixture.catalog.find("scale", "1")


async def test_several_versions_serve_and_the_highest_is_the_default(fixture: Fixture):
    small_models.store(fixture.root, "scale", small_models.scale(5), 10)
    (fixture.root / "scale" / "model.yaml").write_text("versions: all")
    await fixture.catalog.load_all()
    assert [await fixture.value(v) for v in ("1", "10", None)] == [2, 5, 5]
    assert fixture.catalog.versions("scale") == ("1", "10")


async def test_a_failed_load_leaves_the_old_version_serving(fixture: Fixture):
    await fixture.catalog.load_all()
    small_models.store(fixture.root, "scale", small_models.scale(5), 2).write_bytes(b"no")
    with pytest.raises(LoadError, match="'scale' version 2"):
        await fixture.catalog.load("scale")
    assert await fixture.value() == 2
    assert [entry[1:3] for entry in fixture.index()] == [
        ("1", ModelState.READY),
        ("2", ModelState.UNAVAILABLE),
    ]


async def test_the_precision_is_the_models_or_the_catalogs(fixture: Fixture):
    await fixture.catalog.load_all()
    (fixture.root / "scale" / "model.yaml").write_text("precision: bf16\nfp32_nodes: [head]")
    await fixture.catalog.load("scale")
    wanted = [PrecisionChoice(), PrecisionChoice("bf16", ("head",))]
    assert fixture.loader.precisions == wanted
    other = Catalog(Repository(fixture.root), fixture.channel, precision="fp32")
    await other.load("scale")
    (fixture.root / "scale" / "model.yaml").unlink()
    await other.load("scale")
    assert fixture.loader.precisions == [*wanted, wanted[1], PrecisionChoice("fp32")]
    await other.close()


async def test_a_failed_warmup_leaves_the_old_version_serving(fixture: Fixture):
    await fixture.catalog.load_all()
    (fixture.root / "scale" / "model.yaml").write_text("warmup: [{nobody: [1]}]")
    with pytest.raises(LoadError, match="nobody"):
        await fixture.catalog.load("scale")
    assert await fixture.value() == 2
    assert fixture.loader.sessions[-1].closed


async def test_the_largest_shape_is_admitted_and_none_beyond(fixture: Fixture):
    (fixture.root / "scale" / "model.yaml").write_text("largest: {x: [4, 6]}")
    await fixture.catalog.load_all()
    with fixture.catalog.find("scale", None) as model:
        model.admit({"x": np.zeros((4, 6), np.float32)})
        for shape in ((5, 1), (1, 7)):
            with pytest.raises(InputError, match=rf"\[{shape[0]}, {shape[1]}\] is larger than"):
                model.admit({"x": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("largest", ["{x: [4]}", "{y: [4, 6]}"])
async def test_a_largest_shape_that_fits_no_input_fails_the_load(fixture: Fixture, largest: str):
    (fixture.root / "scale" / "model.yaml").write_text(f"largest: {largest}")
    with pytest.raises(RepositoryError, match="largest"):
        await fixture.catalog.load("scale")
    assert fixture.loader.sessions[-1].closed


async def test_one_bad_version_of_several_changes_nothing(fixture: Fixture):
    await fixture.catalog.load_all()
    small_models.store(fixture.root, "scale", small_models.scale(7), 2)
    small_models.store(fixture.root, "scale", small_models.scale(5), 3).write_bytes(b"no")
    with pytest.raises(LoadError):
        await fixture.catalog.load("scale", ModelConfig(versions="all"))
    assert fixture.catalog.versions("scale") == ("1",)
    assert [session.closed for session in fixture.loader.sessions] == [False, True, True]


async def test_a_bad_configuration_leaves_the_old_version_serving(fixture: Fixture):
    await fixture.catalog.load_all()
    (fixture.root / "scale" / "model.yaml").write_text("max_batchsize: 1")
    with pytest.raises(RepositoryError, match="max_batchsize"):
        await fixture.catalog.load("scale")
    assert await fixture.value() == 2


async def test_unload_finishes_requests_first(fixture: Fixture):
    await fixture.catalog.load_all()
    fixture.loader.hold()
    answer = asyncio.create_task(fixture.value())
    await asyncio.sleep(0.02)
    unloading = asyncio.create_task(fixture.catalog.unload("scale"))
    await asyncio.sleep(0.02)
    assert fixture.index() == [("scale", "1", ModelState.UNLOADING, "")]
    with pytest.raises(ModelUnavailableError, match="not ready"):
        fixture.catalog.find("scale")
    fixture.loader.release()
    assert await answer == 2
    await unloading
    assert fixture.index() == [("scale", "1", ModelState.UNAVAILABLE, "unloaded")]
    assert fixture.loader.sessions[-1].closed
    await fixture.catalog.load("scale")
    assert await fixture.value() == 2


async def test_unknown_names_and_versions(fixture: Fixture):
    with pytest.raises(ModelUnavailableError, match="not loaded"):
        fixture.catalog.find("scale")
    await fixture.catalog.load_all()
    with pytest.raises(ModelNotFoundError, match="loaded models: 'scale'"):
        fixture.catalog.find("nobody")
    for version in ("2", "0", "01", "-1", "x", "", "9" * 6000, "١"):
        with pytest.raises(ModelNotFoundError, match="no version"):
            fixture.catalog.find("scale", version)
    for change in (fixture.catalog.load, fixture.catalog.unload):
        with pytest.raises(ModelNotFoundError, match="'nobody'"):
            await change("nobody")


async def test_concurrent_load_and_unload_of_one_model(fixture: Fixture):
    """Mirrors Triton's L0_lifecycle test_concurrent_same_model_load_unload_stress."""
    await fixture.catalog.load_all()

    async def query() -> None:
        for _ in range(40):
            try:
                assert await fixture.value() == 2
            except ModelUnavailableError:
                await asyncio.sleep(0.001)

    async def change() -> None:
        for _ in range(8):
            await fixture.catalog.unload("scale")
            await fixture.catalog.load("scale")

    await asyncio.gather(query(), query(), change(), change())
    assert await fixture.value() == 2
    await asyncio.sleep(0.05)
    assert sum(not session.closed for session in fixture.loader.sessions) == 1

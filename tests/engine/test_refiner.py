"""Refinement in idle time: what is measured, kept and used, and that requests come first."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine
from engine import cpu
from engine.caches import Caches
from engine.codegen.target import select
from engine.plan.blocks import Blocks
from engine.refined import RefinedStore
from engine.refiner import SHARE, Refiner
from engine.runner import Runner
from tests.engine.models import chain, serialise, tensor

ISA = select(None).name
CPU = cpu.machine().model_name


def runner_of(session: engine.Session) -> Runner:
    direct = session._state.direct
    assert direct is not None
    return direct.runner


def arrays(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 256), dtype=np.float32)}


@pytest.fixture
def session() -> engine.Session:
    return engine.load(chain(width=256, layers=2), threads=2)


@pytest.fixture
def refiner(session: engine.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refiner:
    """One whose thread does nothing by itself."""
    monkeypatch.setattr(Refiner, "_work", lambda self: None)
    made = Refiner(RefinedStore(tmp_path), session._pool.compiler.target)
    made.add(runner_of(session))
    return made


def test_hot_products_are_measured_once(
    session: engine.Session, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not refiner.step(), "nothing is hot yet"
    expected = {rows: session.run(arrays(rows))["y"].tobytes() for rows in (500, 900)}
    for _ in range(5):
        session.run(arrays(500))
    monkeypatch.setattr("engine.refiner.GAIN", -1.0)
    while refiner.step():
        assert refiner.measured < 10
    assert refiner.measured == 1, "both layers are one product: same kernel, same sizes"
    for rows, known in expected.items():
        assert session.run(arrays(rows))["y"].tobytes() == known


def test_what_was_found_is_used_and_kept(
    session: engine.Session, refiner: Refiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.refiner._Trial.better", lambda *_: Blocks(12, 1))
    expected = session.run(arrays(500))["y"].tobytes()
    for _ in range(5):
        session.run(arrays(500))
    assert refiner.step()
    again = Refiner(RefinedStore(tmp_path), session._pool.compiler.target)
    assert list(again.chosen.values()) == [Blocks(12, 1)]
    assert again.chosen == refiner.chosen
    assert session.run(arrays(500))["y"].tobytes() == expected
    other = engine.load(chain(width=256, layers=2), threads=2)
    again.add(runner_of(other))
    words = runner_of(other).bind({"rows": 500}).bound.parameters.tobytes()
    assert words == runner_of(session).bind({"rows": 500}).bound.parameters.tobytes()


def test_measuring_stops_for_a_request(
    session: engine.Session, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        session.run(arrays(500))
    before = refiner._runs()
    monkeypatch.setattr(Refiner, "_unchanged", lambda self, runs: False)
    assert refiner.step()
    assert refiner.measured == 0
    assert refiner._runs() == before, "a trial is no run"


def test_a_model_that_does_not_run_on_zeros_is_left_alone(tmp_path: Path) -> None:
    """Zeros are no valid index of an empty axis."""
    nodes = [
        helper.make_node("Gather", ["x", "i"], ["g"], axis=0),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    weights = {"w": np.ones((256, 256), np.float32)}
    inputs = [tensor("x", ["rows", 256]), tensor("i", ["n"], TensorProto.INT64)]
    session = engine.load(serialise(nodes, inputs, ["y"], weights), threads=2)
    refiner = Refiner(RefinedStore(tmp_path), session._pool.compiler.target)
    refiner._runners.add(runner_of(session))
    given = {"x": np.ones((600, 256), np.float32), "i": np.arange(500)}
    for _ in range(5):
        session.run(given)
    ready = runner_of(session).programs()[0]
    names = runner_of(session).program.symbols
    ready.key = tuple(
        0 if name == "rows" else size for name, size in zip(names, ready.key, strict=True)
    )
    assert not refiner.step()
    assert not list(refiner._runners)
    assert session.run(given)["y"].shape == (500, 256)


def test_the_thread_works_when_nobody_asks(tmp_path: Path) -> None:
    session = engine.load(
        chain(width=128, layers=2, seed=5), threads=2, cache_dir=tmp_path, refine=True
    )
    x = np.ones((700, 128), np.float32)
    expected = session.run({"x": x})["y"].tobytes()
    for _ in range(5):
        session.run({"x": x})
    deadline = time.monotonic() + 20
    while not session.stats()["schedules_measured"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session.stats()["schedules_measured"] >= 1
    assert session.run({"x": x})["y"].tobytes() == expected
    assert 0 < SHARE <= 0.1


def test_entries_are_checked(tmp_path: Path) -> None:
    store = RefinedStore(tmp_path)
    blocks = {"one": Blocks(24, 2), "two": Blocks(48, 1)}
    assert store.add(ISA, CPU, {"one": Blocks(24, 2)}) == {"one": Blocks(24, 2)}
    assert RefinedStore(tmp_path).add(ISA, CPU, {"two": Blocks(48, 1)}) == blocks
    assert store.get(ISA, "another CPU") == {}
    (path,) = store.entries()
    whole = json.loads(path.read_text())
    for damage in (
        {"version": 2},
        {"blocks": {"one": [0, 1]}},
        {"blocks": {"one": [1]}},
        {"cpu": 1},
    ):
        path.write_text(json.dumps(whole | damage))
        assert store.get(ISA, CPU) == {}
    path.write_text("{")
    assert store.get(ISA, CPU) == {}
    path.write_text(json.dumps(whole))
    assert store.get(ISA, CPU) == blocks


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_entries_of_others_are_not_used(tmp_path: Path) -> None:
    store = RefinedStore(tmp_path)
    store.add(ISA, CPU, {"one": Blocks(24, 2)})
    (path,) = store.entries()
    os.chown(path, 12345, 12345)
    assert store.get(ISA, CPU) == {}


def test_they_travel_with_the_other_caches(tmp_path: Path) -> None:
    RefinedStore(tmp_path / "here").add(ISA, CPU, {"one": Blocks(24, 2)})
    Caches(tmp_path / "here").pack(tmp_path / "all.tar")
    Caches(tmp_path / "there").unpack(tmp_path / "all.tar")
    assert RefinedStore(tmp_path / "there").get(ISA, CPU) == {"one": Blocks(24, 2)}
    (entry,) = Caches(tmp_path / "there").entries()
    assert (entry.store, entry.title, entry.isa) == ("refined", CPU, ISA)

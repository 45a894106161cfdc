"""Prepared models on disk: what is kept, what is refused, how much."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.codegen.target import select
from engine.plan.store import PlanStore, plan_key
from tests.engine.models import chain, serialise, tensor

WIDTH = 160


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model large enough to be kept."""
    found = tmp_path / "net.onnx"
    found.write_bytes(chain(width=WIDTH, layers=2))
    return found


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, WIDTH)).astype(np.float32)


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "plans").glob("*.plan"))


def load(path: Path | bytes, folder: Path, **options: object) -> tuple[engine.Session, bool]:
    """A session, and whether it came from the store."""
    before = hits(folder)
    session = engine.load(path, cache_dir=folder, **options)  # type: ignore[arg-type]
    return session, hits(folder) > before


def hits(folder: Path) -> int:
    from engine.pool import Pool

    return Pool.of(None, folder).plans.hits


def test_a_stored_model_is_the_same(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first, stored = load(path, folder, threads=2)
    assert not stored
    second, stored = load(path, folder, threads=2)
    assert stored
    for count in (1, 7, 0):
        x = rows(count)
        np.testing.assert_array_equal(first.run({"x": x})["y"], second.run({"x": x})["y"])
    assert (second.inputs, second.outputs) == (first.inputs, first.outputs)
    assert second.explain() == first.explain()
    assert (second.batch_axis, second.batch_reason) == (first.batch_axis, first.batch_reason)
    with pytest.raises(engine.InputError, match="input 'x' has rank 1"):
        second.run({"x": rows(1)[0]})


def test_names_are_those_of_the_file(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    load(path, folder)
    other = path.with_name("other.onnx")
    other.write_bytes(path.read_bytes())
    session, stored = load(other, folder)
    assert stored
    assert (session.name, session.explain().model) == ("other", "other")
    with pytest.raises(engine.InputError, match=r"^other: "):
        session.run({})


def test_keys_tell_models_apart(path: Path, tmp_path: Path) -> None:
    target = select(None)
    key = plan_key(path, target, 2)
    assert key is not None
    assert plan_key(path.read_bytes(), target, 2) == key
    assert plan_key(path, target, 1) != key
    assert plan_key(path, select("baseline"), 2) != key or target.name == "baseline"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert plan_key(path, target, 2) != key
    assert plan_key(tmp_path / "missing.onnx", target, 2) is None
    assert plan_key(tmp_path, target, 2) is None
    assert plan_key(b"small", target, 2) is None


def test_digests_are_remembered_by_the_identity_of_files(path: Path, tmp_path: Path) -> None:
    target = select(None)
    store = PlanStore(tmp_path / "cache")
    key = plan_key(path, target, 2)
    assert store.key(path, target, 2) == key
    assert list(store.folder.glob("*.seen")) == [], "a file that young may still change unseen"
    time.sleep(2.1)
    assert store.key(path, target, 2) == key
    (seen,) = store.folder.glob("*.seen")
    seen.write_text("0" * 64)
    assert store.key(path, target, 2) != key, "the remembered digest was not used"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.key(path, target, 2) == plan_key(path, target, 2) != key
    store.clear()
    assert list(store.folder.glob("*.seen")) == []
    assert store.key(tmp_path / "missing.onnx", target, 2) is None


def test_changed_weights_are_not_taken_from_the_store(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    x = rows(3)
    before = load(path, folder)[0].run({"x": x})["y"]
    path.write_bytes(chain(width=WIDTH, layers=2, seed=9))
    session, stored = load(path, folder)
    assert not stored
    assert not np.allclose(session.run({"x": x})["y"], before)


@pytest.mark.parametrize("damage", ["truncated", "head", "plan", "weights", "empty", "longer"])
def test_damaged_entries_count_as_absent(path: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    expected = load(path, folder)[0].run({"x": rows(2)})["y"]
    (entry,) = entries(folder)
    data = bytearray(entry.read_bytes())
    if damage == "truncated":
        del data[-4096:]
    elif damage == "empty":
        data.clear()
    elif damage == "longer":
        data += bytes(4096)
    else:
        places = {"head": 20, "plan": 900, "weights": len(data) - 999}
        data[places[damage]] ^= 0xFF
    entry.write_bytes(data)
    session, stored = load(path, folder)
    assert not stored
    np.testing.assert_array_equal(session.run({"x": rows(2)})["y"], expected)
    assert load(path, folder)[1], "the entry was not replaced"


def test_models_with_fallbacks_are_prepared_every_time(tmp_path: Path) -> None:
    weights = {"w": np.zeros((200, 200), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("RandomNormalLike", ["p"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    data = serialise(nodes, [tensor("x", ["n", 200, 200])], ["y"], weights)
    folder = tmp_path / "cache"
    for _ in range(2):
        session, stored = load(data, folder)
        assert not stored
        assert session.explain().fallback_count == 1
    assert entries(folder) == []


def test_models_of_several_files_are_prepared_every_time(tmp_path: Path) -> None:
    model = onnx.load_from_string(chain(width=WIDTH, layers=2))
    # Keep the model's own file above the size from which models are kept.
    pad = numpy_helper.from_array(np.arange(1 << 15, dtype=np.float32), "pad")
    model.graph.node.append(helper.make_node("Identity", ["pad"], ["padded"]))
    model.graph.output.append(helper.make_tensor_value_info("padded", TensorProto.FLOAT, [1 << 15]))
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.bin", size_threshold=4096)
    model.graph.initializer.append(pad)
    saved = onnx.load(path, load_external_data=False)
    saved.graph.initializer.append(pad)
    path.write_bytes(saved.SerializeToString())
    folder = tmp_path / "cache"
    for _ in range(2):
        assert not load(path, folder)[1]
    assert entries(folder) == []


def test_the_store_is_bounded(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    load(path, folder)
    (entry,) = entries(folder)
    key = plan_key(path, select(None), engine.cpu.machine().threads)
    assert key is not None
    store = PlanStore(folder, limit=entry.stat().st_size * 5 // 2)
    found = store.get(key)
    assert found is not None
    for name in ("second", "third"):
        store.put(name, found)
        os.utime(store._path(name))
    assert store.evictions == 1
    assert store.get(key) is None
    assert store.get("second") is not None
    assert store.size() <= store.limit


def test_an_entry_under_another_key_is_not_taken(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    load(path, folder)
    (entry,) = entries(folder)
    store = PlanStore(folder)
    entry.rename(store._path("another"))
    assert store.get("another") is None


def test_a_folder_that_cannot_be_written_is_no_error(path: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = PlanStore(blocked)
    assert store.get("key") is None
    found = PlanStore(tmp_path / "cache")
    session, _ = load(path, tmp_path / "cache")
    assert session.stats()["plan_misses"] == 1
    key = plan_key(path, select(None), engine.cpu.machine().threads)
    assert key is not None
    prepared = found.get(key)
    assert prepared is not None
    store.put(key, prepared)
    assert store.entries() == []

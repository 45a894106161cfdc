"""The stores on disk as a whole: listing, archives, what is refused, processes side by side."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.caches import Caches
from engine.codegen.store import CodeStore
from engine.errors import EngineError
from tests.engine.models import chain


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that one model has filled."""
    folder = tmp_path_factory.mktemp("filled")
    model = folder / "net.onnx"
    model.write_bytes(chain(width=160, layers=2))
    engine.load(model, 2, cache_dir=folder / "cache")
    return folder / "cache"


def test_entries_say_what_they_are(filled: Path) -> None:
    entries = Caches(filled).entries()
    kernels = [entry for entry in entries if entry.store == "code"]
    (plan,) = [entry for entry in entries if entry.store == "plans"]
    assert plan.title.endswith("/net.onnx, 2 threads")
    assert plan.isa == engine.cpu.machine().isa
    assert any(entry.title.startswith("dot {") for entry in kernels)
    assert {entry.isa for entry in kernels} == {plan.isa}
    assert all(abs(entry.used_s - time.time()) < 3600 for entry in entries)
    code, plans, *_ = Caches(filled).summaries()
    assert (code.entries, plans.entries) == (len(kernels), 1)
    assert code.size == sum(entry.size for entry in kernels)


def test_an_archive_makes_another_machine_start_warm(filled: Path, tmp_path: Path) -> None:
    archive = tmp_path / "caches.tar"
    packed = Caches(filled).pack(archive)
    assert packed == len(Caches(filled).entries())
    target = tmp_path / "other"
    assert Caches(target).unpack(archive) == packed
    session = engine.load(filled.parent / "net.onnx", 2, cache_dir=target)
    stats = session.stats()
    assert (stats["kernels_compiled"], stats["code_misses"], stats["plan_hits"]) == (0, 0, 1)
    x = np.random.default_rng(1).standard_normal((3, 160)).astype(np.float32)
    original = engine.load(filled.parent / "net.onnx", 2, cache_dir=filled)
    np.testing.assert_array_equal(session.run({"x": x})["y"], original.run({"x": x})["y"])


def _archive(path: Path, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = "/etc/passwd"
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(content))
    return path


def test_archives_of_other_things_are_refused(filled: Path, tmp_path: Path) -> None:
    caches = Caches(tmp_path / "cache")
    (entry, *_) = sorted((filled / "code").glob("*.code"))
    whole = entry.read_bytes()
    torn = bytes([*whole[:-1], whole[-1] ^ 1])
    digest = "0" * 64
    cases = [
        ("../escape.code", whole, tarfile.REGTYPE, "not an entry"),
        (f"code/{entry.name}", b"", tarfile.SYMTYPE, "not an entry"),
        (f"code/{entry.name}", torn, tarfile.REGTYPE, "damaged"),
        (f"code/{digest}.code", whole, tarfile.REGTYPE, "damaged"),
        (f"plans/{digest}.plan", bytes(4096), tarfile.REGTYPE, "damaged"),
    ]
    for name, content, kind, message in cases:
        with pytest.raises(EngineError, match=message):
            caches.unpack(_archive(tmp_path / "bad.tar", name, content, kind))
    (tmp_path / "text.tar").write_text("not a tar file at all")
    with pytest.raises(EngineError, match="not an archive"):
        caches.unpack(tmp_path / "text.tar")
    assert caches.entries() == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = CodeStore(tmp_path, limit=5000)
    for number in range(4):
        store.put(f"kernel {number}", bytes(1000))
        os.utime(store.entries()[-1], ns=(number, number))
    assert store.get("kernel 0") is not None
    store.put("kernel 4", bytes(1500))
    assert store.size() <= 5000
    assert store.evictions == 1
    assert store.get("kernel 1") is None
    assert store.get("kernel 0") is not None


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    left = store.folder / "tmp-left"
    left.write_bytes(b"half a kernel")
    os.utime(left, (0, 0))
    writing = store.folder / "tmp-writing"
    writing.write_bytes(b"")
    store.put("kernel", b"code")
    assert not left.exists()
    assert writing.exists()


def test_a_folder_that_cannot_be_written_still_serves(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    store = CodeStore(filled)
    for path in store.entries():
        label = store.label(path)
        assert label is not None
        assert store.get(label[0]) is not None

"""`packhorse build` and `packhorse cache`."""

import json
from pathlib import Path

import pytest

from tests.api.cli.conftest import Invoke
from tests.engine.models import chain


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in ("1", "2"):
        folder = tmp_path / "models/net" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(chain(width=160, layers=2, seed=int(version)))
    return tmp_path / "models"


def test_build_fills_what_cache_shows(invoke: Invoke, repository: Path, tmp_path: Path) -> None:
    where = ("--cache-dir", tmp_path / "cache")
    first = invoke("build", repository, "--threads", "1,2", *where)
    assert first.code == 0
    assert "net version 2, 1 thread:" in first.out
    assert "net version 2, 2 threads: 0 kernels compiled" in first.out
    listed = json.loads(invoke("cache", "ls", "--json", *where).out)
    assert {entry["title"] for entry in listed if entry["store"] == "plans"} == {
        "net/2/model.onnx, 1 thread",
        "net/2/model.onnx, 2 threads",
    }
    assert "dot " in invoke("cache", "ls", *where).out
    stats = {
        row["store"]: row for row in json.loads(invoke("cache", "stats", "--json", *where).out)
    }
    assert stats["plans"]["entries"] == 2
    assert "at most" in invoke("cache", "stats", *where).out
    archive = tmp_path / "all.tar"
    assert f"{len(listed)} entries" in invoke("cache", "export", archive, *where).out
    assert f"{len(listed)} entries removed" in invoke("cache", "clear", *where).out
    assert "is empty" in invoke("cache", "ls", *where).out
    assert invoke("cache", "import", archive, *where).code == 0
    assert len(json.loads(invoke("cache", "ls", "--json", *where).out)) == len(listed)


def test_wrong_use_is_told(invoke: Invoke, repository: Path, tmp_path: Path) -> None:
    done = invoke("build", repository, "--threads", "two")
    assert (done.code, "--threads 'two'" in done.err) == (2, True)
    done = invoke("cache", "import", tmp_path / "missing.tar", "--cache-dir", tmp_path / "cache")
    assert (done.code, "no such file" in done.err) == (1, True)
    done = invoke("build", tmp_path / "nothing")
    assert (done.code, "no such file or folder" in done.err) == (1, True)

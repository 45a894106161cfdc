"""Fixtures that every test may use, and how the tests are shared among processes."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import cpu
from engine.codegen import compiler
from engine.codegen.store import default_folder

ROOT = Path(__file__).resolve().parent.parent


def models_folder() -> Path:
    """Folder of the trained models that tests read; see `PACKHORSE_MODELS` in the README."""
    return Path(os.environ.get("PACKHORSE_MODELS", ROOT.parent / "shared" / "models"))


@pytest.fixture(scope="session")
def models() -> Path:
    folder = models_folder()
    if not folder.is_dir():
        pytest.skip(f"no trained models at {folder}; set PACKHORSE_MODELS")
    return folder


LONGEST = ("test_quality.py", "tests/conformance/", "tests/real_input/")
"""Where the longest tests are; they start first, so that no process is left with one at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """With several processes, a folder of few letters: sockets' paths have at most 107 bytes."""
    shared = getattr(config.option, "numprocesses", None)
    if shared and not hasattr(config, "workerinput") and config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="ph")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_xdist_auto_num_workers() -> int:
    """One process per CPU that affinity and control groups leave."""
    return cpu.machine().threads


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(place in item.nodeid for place in LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _compile_here() -> Iterator[None]:
    """With a test process on every CPU, starting processes to compile in is only cost."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr(compiler, "_ALONE", 1 << 30)
        yield


@pytest.fixture(scope="session")
def conformance_cases() -> dict[str, Any]:
    """The onnx package's backend suite by name; made once, by the process that comes first."""
    from benchmarks.conformance.cases import load_cases

    folder = default_folder() / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {case.name: case for case in load_cases(folder)}

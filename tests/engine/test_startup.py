"""What a process imports, compiles and keeps when it loads a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.engine.models import chain

HEAVY = ("onnx", "onnx.reference", "numba", "asyncio", "engine.graph.passes", "engine.kernels.dot")
"""What a start from full stores does without."""

ANSWER = """
import sys
from pathlib import Path
import numpy as np
import engine
import engine.codegen.compiler as compiler

workers = []
start = compiler._Worker.__init__
compiler._Worker.__init__ = lambda self, target: (workers.append(self), start(self, target))[1]
session = engine.load({path!r}, threads=2, cache_dir={cache!r})
(x,) = session.inputs
x = np.linspace(-1, 1, 3 * x.shape[1], dtype=np.float32).reshape(3, -1)
(y,) = session.run({{"x": x}}).values()
stats = session.stats()
print(stats["kernels_compiled"], len(workers), stats["plan_hits"], float(np.abs(y).sum()))
print(session.name, session.inputs, session.outputs, session.batch_axis, session.explain().model)
print(*sorted(set(sys.modules) & set({heavy!r})))
"""


def python(script: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_engine_imports_little() -> None:
    script = "import sys, engine; print(*sys.modules)"
    (line,) = python(script)
    modules = set(line.split())
    assert not modules & {
        "numpy",
        "onnx",
        "llvmlite",
        "numba",
        "asyncio",
        "engine.session",
        "engine.loading",
    }
    exported = "import engine; print([getattr(engine, name) is None for name in engine.__all__])"
    assert "True" not in python(exported)[0]


def test_an_unknown_attribute_is_none_of_the_engine() -> None:
    (line,) = python("import engine; print(hasattr(engine, 'lood'), 'load' in dir(engine))")
    assert line == "False True"


def test_reading_a_model_needs_no_reference_implementation(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(chain(width=16, layers=2))
    script = ANSWER.format(path=str(path), cache=str(tmp_path / "cache"), heavy=HEAVY)
    modules = set(python(script)[2].split())
    assert "onnx" in modules
    assert not modules & {"onnx.reference", "numba"}


def test_a_second_start_neither_compiles_nor_plans(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(chain(width=128, layers=3))
    script = ANSWER.format(path=str(path), cache=str(tmp_path / "cache"), heavy=HEAVY)
    first, second = python(script), python(script)
    compiled, workers, hits, answer = first[0].split()
    assert int(compiled) > 0
    # One process per CPU, which are not started again for the model's own kernels.
    assert int(workers) <= len(os.sched_getaffinity(0))
    assert int(hits) == 0
    assert second[0].split() == ["0", "0", "1", answer]
    assert second[1] == first[1]
    assert second[2] == ""


MEMORY = """
import engine.loading
import engine.preparation

def resident():
    fields = open("/proc/self/statm").read().split()
    return int(fields[1]) * 4096

path, cache = {path!r}, {cache!r}
before = resident()
session = engine.loading.load(path, threads=1, cache_dir=cache)
print(session.stats()["weight_bytes"], resident() - before, session.stats()["plan_hits"])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_is_that_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(chain(width=1536, layers=12))
    script = MEMORY.format(path=str(path), cache=str(tmp_path / "cache"))
    for hits in (0, 1):
        weights, resident, found = map(int, python(script)[0].split())
        assert found == hits
        assert weights >= 12 * 1536 * 1536 * 4
        # The constant covers LLVM, compiled kernels and what the passes import.
        assert resident <= 1.2 * weights + (48 << 20)

"""Native code as built-in functions: arrays by address, ints by value, no reference kept."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import engine
from engine.graph.dims import DimError
from tests.engine.models import chain


def test_calls_keep_no_reference() -> None:
    session = engine.load(chain(width=96, layers=2), threads=1)
    x = np.ones((3, 96), np.float32)
    session.run({"x": x})
    direct = session._state.direct
    assert direct is not None
    memory = direct.runner.bind({"rows": 3}).bound.memory
    before = sys.getrefcount(x), sys.getrefcount(memory), sys.getrefcount(None)
    for _ in range(1000):
        y = session.run({"x": x})["y"]
    assert sys.getrefcount(y) == 2
    after = sys.getrefcount(x), sys.getrefcount(memory), sys.getrefcount(None)
    assert after[:2] == before[:2]
    assert abs(after[2] - before[2]) < 500


def test_python_runs_beside_a_program() -> None:
    """A caller that held the GIL would let nobody count."""
    session = engine.load(chain(width=96, layers=12), threads=1)
    x = np.ones((20_000, 96), np.float32)
    session.run({"x": x})
    done = threading.Event()

    def run() -> None:
        session.run({"x": x})
        done.set()

    counted = 0
    thread = threading.Thread(target=run)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        thread.start()
        while not done.is_set():
            counted += 1
    finally:
        sys.setswitchinterval(switch)
        thread.join()
    assert counted > 1000


def test_sizes_beyond_64_bits_are_refused() -> None:
    session = engine.load(chain(width=96, layers=2), threads=1)
    direct = session._state.direct
    assert direct is not None
    for size in (1 << 63, -(1 << 63) - 1, 1 << 200):
        with pytest.raises(DimError, match="64 bits"):
            direct.runner.program.bind({"rows": size}, 1)
    assert direct.runner.program.bind({"rows": 5}, 1).outputs == ((5, 96),)

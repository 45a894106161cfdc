"""Throughput mode: rows of a batch on threads of their own, the same bytes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import engine
from engine import throughput
from tests.engine.models import chain


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> engine.Session:
    monkeypatch.setattr(throughput, "_LEAST_NS", 0)
    return engine.load(chain(width=96, layers=4), threads=3, throughput=True)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, 96)).astype(np.float32)}


def test_batches_give_the_bytes_of_one_gang(session: engine.Session) -> None:
    whole = engine.load(chain(width=96, layers=4), threads=2)
    assert session.stats()["threads"] == 3
    for count in (0, 1, 2, 3, 8, 100):
        expected = whole.run(rows(count))["y"]
        for _ in range(2):
            found = session.run(rows(count))["y"]
            assert found.shape == expected.shape
            assert found.tobytes() == expected.tobytes()


def test_rows_really_run_on_several_threads(
    session: engine.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    gang = session._gang
    run = gang.run_inline

    def watched(*given: Any) -> int:
        seen.add(threading.get_ident())
        return run(*given)

    monkeypatch.setattr(gang, "run_inline", watched)
    for _ in range(20):
        session.run(rows(300))
    assert len(seen) >= 2


async def test_awaited(session: engine.Session) -> None:
    expected = session.run(rows(9))["y"]
    np.testing.assert_array_equal((await session.run_async(rows(9)))["y"], expected)


def test_callers_of_one_thread_run_at_once() -> None:
    session = engine.load(chain(width=96, layers=4), threads=1)
    expected = session.run(rows(50))["y"].tobytes()
    results: list[bytes] = []

    def call() -> None:
        results.extend(session.run(rows(50))["y"].tobytes() for _ in range(20))

    callers = [threading.Thread(target=call) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert set(results) == {expected}
    assert len(results) == 100

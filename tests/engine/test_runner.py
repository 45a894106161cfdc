"""Runners: bound programs are made once, kept while used, and bounded."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import engine
from engine.errors import InputError
from engine.runner import Runner
from tests.engine.models import chain


@pytest.fixture(scope="module")
def session() -> engine.Session:
    return engine.load(chain(width=16, layers=2), threads=2)


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 16)).astype(np.float32)


def runner(session: engine.Session, programs: int) -> Runner:
    """A runner of the session's program that keeps so many bound programs."""
    only = session._state.executor.single
    assert only is not None
    size = only.bind({"rows": 1}).size
    return Runner(only.program, only.gang, only.weights, "chain", limit=size * programs)


def run(chosen: Runner, count: int) -> np.ndarray:
    (result,) = chosen.run({"rows": count}, [rows(count)])
    return result


def test_least_recently_used_programs_go_first(session: engine.Session) -> None:
    small = runner(session, programs=3)
    for count in (1, 2, 3, 1, 4):
        run(small, count)
    assert (small.misses, small.hits, small.evictions) == (4, 1, 1)
    run(small, 1)
    assert small.misses == 4
    run(small, 2)
    assert (small.misses, small.evictions) == (5, 2)
    assert small.bound_bytes <= small.limit


def test_memory_is_bounded_and_results_stay(session: engine.Session) -> None:
    small = runner(session, programs=2)
    for count in [*range(1, 60), *range(1, 60)]:
        np.testing.assert_array_equal(run(small, count), session.run({"x": rows(count)})["y"])
        assert small.bound_bytes <= small.limit
    assert small.evictions == small.misses - 2


def test_evicted_programs_are_not_held_by_their_shapes() -> None:
    own = engine.load(chain(width=16, layers=2), threads=2)
    direct = own._state.direct
    assert direct is not None
    kept = direct.runner
    kept.limit = 3 * kept.bind({"rows": 1}).size
    for count in [*range(1, 40), 3, 39, 38]:
        np.testing.assert_array_equal(own.run({"x": rows(count)})["y"].shape, (count, 16))
        assert len(kept.known) <= 3
        assert all(not ready.gone for ready in kept.known.values())
    assert kept.evictions > 30
    kept.forget()
    assert not kept.known


def test_one_caller_binds_for_all(session: engine.Session) -> None:
    shared = runner(session, programs=4)
    wall = threading.Barrier(6)
    results: list[np.ndarray] = []

    def call() -> None:
        wall.wait()
        results.append(run(shared, 5))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (shared.misses, shared.hits) == (1, 5)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_sizes_beyond_memory_are_refused(session: engine.Session) -> None:
    with pytest.raises(InputError, match="chain: the inputs' shapes do not fit"):
        runner(session, programs=1).bind({"rows": 1 << 62})


def test_counters_are_told(session: engine.Session) -> None:
    before = session.stats()
    session.run({"x": rows(77)})
    session.run({"x": rows(77)})
    after = session.stats()
    assert after["binds"] - before["binds"] == 1
    assert after["bind_hits"] - before["bind_hits"] == 1
    assert after["bound_bytes"] > before["bound_bytes"]
    assert after["bind_evictions"] == 0

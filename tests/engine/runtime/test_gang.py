"""Gangs: every item once, in order of dependence, whatever the threads do."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.pool import Pool
from tests.engine.models import chain


@pytest.fixture(scope="module")
def session() -> engine.Session:
    return engine.load(chain(width=96, layers=12), threads=2)


def arrays(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((rows, 96)).astype(np.float32)}


@pytest.mark.parametrize("rows", [1, 3, 64, 700])
def test_any_number_of_threads_gives_the_same_bytes(rows: int) -> None:
    feeds = arrays(rows)
    results = [
        engine.load(chain(width=96, layers=12), threads=threads).run(feeds)["y"].tobytes()
        for threads in (1, 2, 3, 5)
    ]
    assert len(set(results)) == 1


def test_many_callers_at_once(session: engine.Session) -> None:
    expected = {rows: session.run(arrays(rows, rows))["y"].tobytes() for rows in (1, 40, 300, 500)}
    failures: list[str] = []

    def call(rows: int) -> None:
        results = [session.run(arrays(rows, rows))["y"].tobytes() for _ in range(30)]
        if set(results) != {expected[rows]}:
            failures.append(f"{rows} rows came out differently")

    threads = [threading.Thread(target=call, args=(rows,)) for rows in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_two_sessions_share_one_gang() -> None:
    first = engine.load(chain(width=96, layers=2), threads=2)
    second = engine.load(chain(width=96, layers=3), threads=2)
    before = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(20):
        first.run(arrays(400))
        second.run(arrays(400))
    assert len(list(Path("/proc/self/task").iterdir())) == before


async def test_awaited_runs_complete_through_the_loop(session: engine.Session) -> None:
    import asyncio

    expected = [session.run(arrays(rows, rows))["y"] for rows in range(200, 220)]
    results = await asyncio.gather(
        *(session.run_async(arrays(rows, rows)) for rows in range(200, 220))
    )
    for result, reference in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result["y"], reference)


async def test_a_cancelled_await_leaves_the_gang_usable(session: engine.Session) -> None:
    import asyncio

    tasks = [asyncio.create_task(session.run_async(arrays(600))) for _ in range(8)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)
    expected = session.run(arrays(600))["y"]
    for result in results[1::2]:
        assert isinstance(result, dict)
        np.testing.assert_array_equal(result["y"], expected)


def test_an_idle_gang_burns_no_cpu(session: engine.Session) -> None:
    session.run(arrays(700))
    time.sleep(0.05)
    gang = Pool.of(None, None).gang(2)
    before = sum(_ticks(tid) for tid in gang.thread_ids())
    time.sleep(0.4)
    assert sum(_ticks(tid) for tid in gang.thread_ids()) - before <= 1


def _ticks(tid: int) -> int:
    """User and system time of a thread of this process, in clock ticks."""
    fields = Path(f"/proc/self/task/{tid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_threads_are_pinned_where_they_fill_the_machine() -> None:
    cpus = engine.cpu.machine().cpus
    engine.load(chain(width=96, layers=2), threads=len(cpus)).run(arrays(700))
    gang = Pool.of(None, None).gang(len(cpus))
    gang.start()
    pinned = [os.sched_getaffinity(tid) for tid in gang.thread_ids()]
    assert pinned == [{cpu} for cpu in cpus]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(session: engine.Session) -> None:
    expected = session.run(arrays(500))["y"].tobytes()
    child = os.fork()
    if child == 0:
        same = session.run(arrays(500))["y"].tobytes() == expected
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert session.run(arrays(500))["y"].tobytes() == expected

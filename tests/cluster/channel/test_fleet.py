"""What must hold when worker processes die, stop, restart and are shared."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.channel import ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel
from cluster.errors import DeadlineError, LoadError, PoisonError
from engine.errors import RunError
from tests.cluster.channel.fleet import KEY, Fleet, batch, fleet, rows

LIMIT_S = 6.0
"""Twice what recovery may take: most of it is the start of an interpreter, on a busy machine."""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    async def make(workers: int) -> Fleet:
        context = fleet(tmp_path, workers)
        made.append(context)
        return await context.__aenter__()

    yield make
    for context in made:
        await context.__aexit__(None, None, None)


class Load:
    """Callers that send one batch after the other, and what became of every request."""

    def __init__(self, channel: NetworkedChannel, callers: int, seconds: float = 0.005) -> None:
        self.answered: Counter[float] = Counter()
        self.errors: list[BaseException] = []
        self.pids: Counter[int] = Counter()
        self.times: list[float] = []
        self._channel = channel
        self._next = 1000.0
        self._going = True
        self._seconds = seconds
        self._callers = [asyncio.create_task(self._call()) for _ in range(callers)]

    async def end(self) -> None:
        self._going = False
        await asyncio.gather(*self._callers)

    async def _call(self) -> None:
        while self._going:
            first, self._next = self._next, self._next + 3
            sent = batch(rows(first, seconds=self._seconds), rows(first + 1, first + 2), seconds=20)
            future = self._channel.submit(sent)
            future.add_done_callback(self._count)
            try:
                answer = await future
            except Exception as error:
                self.errors.append(error)
                continue
            np.testing.assert_array_equal(answer["y"][:, 0], [2 * (first + i) for i in range(3)])
            self.answered.update([first, first + 1, first + 2])
            self.pids[int(answer["pid"][0])] += 1

    def _count(self, _: object) -> None:
        self.times.append(time.monotonic())

    @property
    def sent(self) -> int:
        return int(self._next - 1000)


async def test_a_killed_worker_loses_no_request_and_answers_none_twice(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 6)
    for round_number in range(3):
        await asyncio.sleep(0.2)
        killed = time.monotonic()
        f.kill(f"test/{round_number % 2}")
        await asyncio.sleep(0.05)
        await f.ready(channel, 2)
        assert time.monotonic() - killed < LIMIT_S
    await asyncio.sleep(0.2)
    await load.end()
    assert load.errors == []
    assert load.sent == len(load.answered) == load.answered.total()
    assert f.starts == 5
    gaps = np.diff(load.times)
    assert gaps.max() < LIMIT_S / 3, "the other worker goes on meanwhile"


async def test_the_only_worker_is_killed(start):
    f = await start(1)
    channel = await f.channel()
    load = Load(channel, 3)
    await asyncio.sleep(0.1)
    f.kill("test/0")
    await asyncio.sleep(0.05)
    await f.ready(channel, 1)
    await asyncio.sleep(0.1)
    await load.end()
    assert load.errors == []
    assert load.sent == load.answered.total()
    assert np.diff(load.times).max() < LIMIT_S


async def test_a_stopped_worker_is_noticed_and_comes_back(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 6)
    await asyncio.sleep(0.2)
    pid = f.kill("test/0", signal.SIGSTOP)
    async with asyncio.timeout(LIMIT_S):
        while sum(worker.state == "ready" for worker in channel.workers()) == 2:
            await asyncio.sleep(0.01)
    assert "silent" in " ".join(worker.detail for worker in channel.workers())
    await asyncio.sleep(0.2)
    before = load.pids[pid]
    os.kill(pid, signal.SIGCONT)
    await f.ready(channel, 2)
    await asyncio.sleep(0.3)
    await load.end()
    assert load.errors == []
    assert load.sent == load.answered.total()
    assert load.pids[pid] > before
    assert f.starts == 2, "nobody was restarted"


async def test_a_poisonous_request_ends_alone(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 4)
    await asyncio.sleep(0.1)
    with pytest.raises(PoisonError, match="not tried again") as caught:
        await channel.submit(batch(rows(1), rows(2, 666), rows(3)))
    assert caught.value.parts == {1}
    await asyncio.sleep(0.1)
    await load.end()
    assert load.errors == [], "nobody else pays"
    assert load.sent == load.answered.total()
    assert f.starts <= 4, "two deaths: with its batch, and alone"
    counters = channel.counters()
    assert counters["requests_refused"] == 1
    assert counters["batches_quarantined"] >= 1
    assert 1 <= counters["workers_died"] <= 2


async def test_two_gateways_quarantine_at_once_and_blame_nobody_innocent(start):
    f = await start(2)
    one, two = await f.channel("one"), await f.channel("two")
    loads = [Load(one, 3), Load(two, 3)]
    await asyncio.sleep(0.1)
    poison = [one.submit(batch(rows(666))), two.submit(batch(rows(666), rows(1)))]
    results = await asyncio.gather(*poison, return_exceptions=True)
    assert [type(result) for result in results] == [PoisonError, PoisonError]
    assert [result.parts for result in results] == [{0}, {0}]
    await f.ready(one, 2)
    for load in loads:
        await load.end()
        assert load.errors == []


async def test_a_request_that_stops_every_worker_is_refused(start):
    f = await start(1)
    channel = await f.channel()
    sending = asyncio.ensure_future(channel.submit(batch(rows(777))))
    while not sending.done():
        await asyncio.sleep(0.1)
        with Path(f"/proc/{f.processes['test/0'].pid}/stat").open() as stat:
            if stat.read().rpartition(") ")[2].startswith("T") and not any(
                worker.state == "ready" for worker in channel.workers()
            ):
                f.kill("test/0", signal.SIGCONT)
    with pytest.raises(PoisonError):
        await sending
    f.kill("test/0", signal.SIGCONT)


async def test_a_run_that_never_returns_costs_two_workers_and_nobody_elses_answer(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 3)
    await asyncio.sleep(0.1)
    with pytest.raises(PoisonError) as found:
        await channel.submit(batch(rows(4), rows(888), rows(5), seconds=60))
    assert found.value.parts == {1}
    await f.ready(channel, 2)
    await load.end()
    assert load.errors == []
    assert f.starts == 4


async def test_a_deadline_while_no_worker_is_there(start):
    f = await start(1)
    channel = await f.channel()
    f.restart = False
    f.kill("test/0")
    while any(worker.state == "ready" for worker in channel.workers()):
        await asyncio.sleep(0.01)
    assert not channel.idle(KEY)
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="double"):
        await channel.submit(batch(rows(1), seconds=0.3))
    assert 0.2 < time.monotonic() - began < 2


async def test_an_error_of_a_run_is_not_tried_elsewhere(start):
    f = await start(2)
    channel = await f.channel()
    with pytest.raises(RunError, match="does not like 555"):
        await channel.submit(batch(rows(555)))


async def test_two_gateways_share_the_workers_fairly(start):
    f = await start(2)
    greedy, modest = await f.channel("greedy"), await f.channel("modest")
    loads = Load(greedy, 12, 0.01), Load(modest, 3, 0.01)
    await asyncio.sleep(2)
    for load in loads:
        await load.end()
    many, few = (load.answered.total() for load in loads)
    assert few > 0.4 * (many + few), "twelve callers get no more than half of the time"


async def test_work_is_spread_over_the_workers(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 4, 0.01)
    await asyncio.sleep(0.5)
    await load.end()
    assert len(load.pids) == 2
    assert min(load.pids.values()) > 0.3 * load.pids.total()


async def test_a_worker_that_leaves_in_order_answers_first(start):
    f = await start(2)
    channel = await f.channel()
    load = Load(channel, 6, 0.02)
    await asyncio.sleep(0.1)
    f.restart = False
    f.kill("test/0", signal.SIGTERM)
    assert await asyncio.wait_for(f.processes["test/0"].wait(), 10) == 0
    await asyncio.sleep(0.1)
    await load.end()
    assert load.errors == []
    assert [worker.worker for worker in channel.workers()] == ["test/1"]


async def test_a_worker_that_comes_later_gets_the_models(start, tmp_path: Path):
    f = await start(1)
    channel = await f.channel()
    await f.start(1)
    await f.ready(channel, 2)


async def test_a_model_that_kills_its_loader_is_refused(start):
    f = await start(1)
    channel = await f.channel()
    path = f.folder / "deadly.onnx"
    path.write_text("deadly")
    with pytest.raises(LoadError, match="failed 2 times"):
        await channel.load(ModelKey("deadly", 1, 2), ModelSource(path))
    await f.ready(channel, 1)
    assert (await channel.submit(batch(rows(4))))["y"][0, 0] == 8


async def test_without_workers_a_load_says_so(tmp_path: Path):
    from cluster.channel.networked import NetworkOptions
    from cluster.discovery import EndpointList

    channel = NetworkedChannel(EndpointList(), NetworkOptions(worker_wait_s=0.1))
    with pytest.raises(LoadError, match=r"no worker to load it on within 0\.1 s"):
        await channel.load(KEY, ModelSource(tmp_path / "x.onnx"))
    await channel.close()

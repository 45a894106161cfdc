"""A worker that is killed is stood in for at once, and its slot handed on without a gap."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zmq", reason="needs packhorse[fleet]")

from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.errors import SlotTakenError
from cluster.fleet import worker
from cluster.fleet.configuration import FleetArguments
from cluster.fleet.directory import Directory
from cluster.fleet.gateway import join
from cluster.fleet.handover import Predecessor
from cluster.fleet.processes import ProcessId
from cluster.topology.leases import take
from cluster.topology.slots import divide
from cluster.topology.tree import read_topology

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples/digits/digits.onnx"
KEY = ModelKey("digits", 1, 1)
CORES = read_topology().cores
"""Slots of one core each: a standby sees no more of the machine than its own."""
SECRET = "a secret of the tests"
IMAGE = {"image": np.zeros((1, 1, 8, 8), np.float32)}


class Place:
    """A directory in this process, and workers in others that share one slot."""

    def __init__(self, folder: Path, directory: Directory, address: str) -> None:
        self.directory = directory
        self.address = address
        self.processes: list[asyncio.subprocess.Process] = []
        self.seen: set[int] = set()
        self.arguments = {
            "repository": str(MODEL),
            "slots": CORES,
            "leases": str(folder / "leases"),
            "sockets": str(folder / "sockets"),
            "secret_file": str(folder / "secret"),
            "patience_s": 0,
        }

    async def start(self, **arguments: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.cluster.fleet.worker_process"),
            *(json.dumps(self.arguments | arguments), self.address),
            cwd=ROOT,
        )
        self.processes.append(process)
        return process

    def reports(self) -> list[dict[str, Any]]:
        """What the workers that are listed say of themselves."""
        found = [worker.report for worker in self.directory.register.workers.values()]
        for report in found:
            self.seen |= {report["pid"], report["standby"] or report["pid"]}
        return found

    async def until(
        self, fits: Callable[[dict[str, Any]], bool], seconds: float = 60
    ) -> dict[str, Any]:
        """Wait for exactly one worker, and for its report to fit."""
        async with asyncio.timeout(seconds):
            while len(found := self.reports()) != 1 or not fits(found[0]):
                await asyncio.sleep(0.01)
        return found[0]

    async def worker_with_standby(self) -> dict[str, Any]:
        return await self.until(lambda report: bool(report["standby"]))

    async def gone(self, pid: int, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while ProcessId.of(pid) is not None:
                await asyncio.sleep(0.01)

    def leased(self) -> bool:
        slot = divide(read_topology(), CORES)[0]
        try:
            take(slot, "somebody else", Path(self.arguments["leases"])).release()
        except SlotTakenError:
            return True
        return False


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    (folder / "secret").write_text(SECRET)
    directory = Directory(SECRET)
    found = Place(folder, directory, await directory.open("127.0.0.1:0"))
    try:
        yield found
        left = []
    finally:
        found.reports()
        for process in found.processes:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        left = [pid for pid in found.seen if ProcessId.of(pid) is not None]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        await directory.close()
    assert left == []


class Load:
    """One batch after the other until it is ended."""

    def __init__(self, channel: NetworkedChannel) -> None:
        self.answered = 0
        self.slowest_s = 0.0
        self._channel = channel
        self._going = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._going:
            began = time.monotonic()
            await self._channel.submit(Batch(KEY, (IMAGE,), None, began + 60))
            self.answered += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def end(self) -> None:
        self._going = False
        await self._task


async def test_a_killed_worker_is_stood_in_for_and_its_slot_handed_on(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        first = await here.start()
        report = await here.worker_with_standby()
        standby = report["standby"]
        channel = join(here.address, NetworkOptions(secret=SECRET))
        await channel.load(KEY, ModelSource(MODEL))
        load = Load(channel)

        os.kill(report["pid"], signal.SIGKILL)
        await first.wait()
        report = await here.until(lambda report: report["pid"] == standby)
        assert report["stands_in"]
        assert report["strays"] == []
        assert report["slot"] == "slot0"
        assert here.leased()
        before = load.answered
        async with asyncio.timeout(30):
            while load.answered < before + 20:
                await asyncio.sleep(0.01)

        # A successor that fails takes nothing away.
        failing = await here.start(repository="docs")
        assert await failing.wait() != 0
        assert here.leased()
        assert (await here.until(lambda report: True))["pid"] == standby

        watching = asyncio.create_task(_always_leased(here))
        second = await here.start()
        report = await here.until(lambda report: not report["stands_in"])
        assert report["pid"] == second.pid
        await here.gone(standby)
        assert not watching.done()
        watching.cancel()
        await load.end()
        assert load.slowest_s < 30
        await channel.close()

        # Who leaves in order takes its standby along, and gives the slot back.
        standby = (await here.worker_with_standby())["standby"]
        second.terminate()
        assert await second.wait() == 0
        await here.gone(standby)
        assert not here.leased()


async def _always_leased(here: Place) -> None:
    while True:
        assert here.leased()
        await asyncio.sleep(0.002)


async def test_who_stands_in_leaves_when_no_successor_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path) as here:
        await here.start()
        report = await here.worker_with_standby()
        os.kill(report["pid"], signal.SIGKILL)
        await here.until(lambda found: found["pid"] == report["standby"])
        here.directory.complete = True
        await here.gone(report["standby"])
        assert here.reports() == []
        assert not here.leased()


async def test_who_stands_in_is_stood_in_for_as_well(tmp_path: Path) -> None:
    """Two deaths within the time that Serve needs for one successor."""
    async with place(tmp_path) as here:
        await here.start()
        first = await here.worker_with_standby()
        os.kill(first["pid"], signal.SIGKILL)
        second = await here.until(lambda found: found["stands_in"] and bool(found["standby"]))
        assert second["pid"] == first["standby"]
        os.kill(second["pid"], signal.SIGKILL)
        third = await here.until(lambda found: found["pid"] == second["standby"])
        assert third["stands_in"]
        assert third["strays"] == []
        assert here.leased()
        # The successor relieves it all the same, and nobody is left over.
        successor = await here.start()
        report = await here.until(lambda found: not found["stands_in"])
        assert report["pid"] == successor.pid
        await here.gone(third["pid"])


async def test_a_standby_that_dies_is_replaced(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.start()
        standby = (await here.worker_with_standby())["standby"]
        os.kill(standby, signal.SIGKILL)
        await here.until(lambda report: report["standby"] not in (None, standby))
        await here.gone(standby)


async def test_no_standby_where_none_is_wanted(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = await here.start(standby=False)
        await here.until(lambda report: report["standby"] is None)
        await asyncio.sleep(0.3)
        assert here.reports()[0]["standby"] is None
        process.kill()
        await process.wait()
        assert not here.leased()
        arguments = FleetArguments(**here.arguments)
        assert Predecessor.find(arguments, "test") is None


async def test_a_standby_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = worker.FleetWorker(
        FleetArguments(repository=str(MODEL)), fleet="test", node="here", resolve=nowhere
    )
    made: list[Any] = []

    def start(order: Any) -> Any:
        made.append(order)
        if len(made) == 1:
            raise BlockingIOError("Resource temporarily unavailable")
        return SimpleNamespace(alive=True)

    monkeypatch.setattr(worker, "Standby", start)
    monkeypatch.setattr(found, "_order", lambda: {})
    for name in ("_STANDBY_AFTER_S", "_STANDBY_EVERY_S", "_STANDBY_LOOK_S"):
        monkeypatch.setattr(worker, name, 0.01)
    keeping = asyncio.create_task(found._keep_standby())
    await asyncio.sleep(0.2)
    assert not keeping.done()
    keeping.cancel()
    assert len(made) == 2
    assert "temporarily unavailable" in caplog.text


async def nowhere() -> str:
    return ""

"""Stuck runs are told from long ones; and a real worker whose kernel has stopped is ended."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import engine
from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.discovery import FolderDiscovery
from cluster.worker.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples/digits/digits.onnx"
STEP_S = 0.25


class Process:
    """A process with a watchdog, on a clock of its own."""

    def __init__(self, stall_s: float = 2, limit_s: float = 5) -> None:
        self.at: int | None = None
        self.now = 100.0
        self.reasons: list[str] = []
        self.watchdog = Watchdog(stall_s, limit_s, lambda: self.at, self.reasons.append)

    def run(self, seconds: float, moves: bool = False) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.now += STEP_S
            if moves and self.at is not None:
                self.at += 1
            self.watchdog.look(self.now)


def test_a_run_that_does_not_get_on_is_stuck() -> None:
    process = Process()
    process.watchdog.begin("run", "model 'm'", process.now + 100)
    process.at = 7
    process.run(4, moves=True)
    process.run(2)
    assert process.reasons == []
    process.run(0.5)
    assert "model 'm': a run has not got on for 2." in process.reasons[0]


def test_a_run_without_counters_or_with_moving_ones_has_until_its_deadline_and_the_limit() -> None:
    for at in (None, 1):
        process = Process()
        process.at = at
        process.watchdog.begin("run", "model 'm'", process.now + 10)
        process.run(9.5, moves=True)
        assert process.reasons == []
        process.run(1, moves=True)
        assert "past its deadline" in process.reasons[0]
    # A deadline that has passed early is no reason yet.
    process = Process()
    process.watchdog.begin("run", "model 'm'", process.now + 1)
    process.run(4.5)
    assert process.reasons == []


def test_nobody_is_blamed_for_a_stop_of_the_whole_process_or_after_the_end() -> None:
    process = Process()
    process.at = 1
    process.watchdog.begin("run", "model 'm'", process.now + 1000)
    process.run(0.5)
    process.now += 500
    process.run(0.5)
    assert process.reasons == []
    process.watchdog.end("run")
    process.run(50)
    assert process.reasons == []


def test_zero_means_never() -> None:
    process = Process(0, 0)
    process.at = 1
    process.watchdog.begin("run", "model 'm'", process.now)
    process.run(500)
    assert process.reasons == []


async def test_the_engine_tells_its_progress() -> None:
    session = engine.load(MODEL, 2)
    images = np.zeros((4096, 1, 8, 8), np.float32)
    seen: set[int] = set()
    running = asyncio.create_task(session.run_async({"image": images}))
    while not running.done():
        await asyncio.sleep(0)
        if (at := engine.progress()) is not None:
            seen.add(at)
    await running
    assert len(seen) > 1
    assert engine.progress() is None
    session.close()


PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


class Stopped:
    """One thread of a process below this one, stopped while all others go on (ptrace(2))."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long] * 4
        self._libc.ptrace.restype = ctypes.c_long
        if self._libc.ptrace(PTRACE_SEIZE, thread, 0, 0) != 0:
            pytest.skip(f"no ptrace here: {os.strerror(ctypes.get_errno())}")
        assert self._libc.ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0
        os.waitpid(thread, WALL)

    async def reap(self) -> None:
        """Wait for its end, without which the kernel does not finish the end of the process."""
        async with asyncio.timeout(30):
            while os.waitpid(self._thread, WALL | os.WNOHANG)[0] == 0:
                await asyncio.sleep(0.01)


async def test_a_worker_whose_kernel_has_stopped_ends_and_another_answers(tmp_path: Path) -> None:
    pytest.importorskip("zmq", reason="needs packhorse[fleet]")
    command = [sys.executable, "-m", "cluster.worker", "--announce", str(tmp_path / "workers")]
    command += ["--sockets", str(tmp_path / "sockets"), "--threads", "2", "--stall", "1"]
    command += ["--models", str(MODEL), "--log-level", "error"]
    first, second = [
        await asyncio.create_subprocess_exec(*command, "--name", name, cwd=ROOT)
        for name in ("first", "second")
    ]
    channel = NetworkedChannel(FolderDiscovery(tmp_path / "workers"), NetworkOptions())
    try:
        async with asyncio.timeout(60):
            while len(FolderDiscovery(tmp_path / "workers").scan()) < 2:
                await asyncio.sleep(0.02)
        key = ModelKey("digits", 1, 1)
        await channel.load(key, ModelSource(MODEL, threads=2))
        images = {"image": np.zeros((4096, 1, 8, 8), np.float32)}
        # A first run each, which starts the engine's threads: the last two of the process. Were
        # it one that stops, the other would do its work.
        batches = [Batch(key, (images,), None, time.monotonic() + 60) for _ in range(4)]
        await asyncio.gather(*(channel.submit(one) for one in batches))
        threads = sorted(int(task.name) for task in Path(f"/proc/{first.pid}/task").iterdir())
        stopped = [Stopped(thread) for thread in threads[-2:]]
        answers = await asyncio.gather(*(channel.submit(one) for one in batches))
        assert all(answer["probabilities"].shape == (4096, 10) for answer in answers)
        for thread in stopped:
            await thread.reap()
        assert await asyncio.wait_for(first.wait(), 20) == os.EX_SOFTWARE
        assert channel.counters()["workers_died"] == 1
        assert channel.counters()["batches_quarantined"] >= 1
    finally:
        await channel.close()
        for process in (first, second):
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()

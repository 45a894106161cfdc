"""Worker processes for tests, with a supervisor that starts again what has died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.discovery import FolderDiscovery
from tests.cluster.channel.worker_process import HEARTBEAT

ROOT = Path(__file__).resolve().parents[3]
KEY = ModelKey("double", 1, 1)


class Fleet:
    """Some worker processes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = ModelSource(folder / "model.onnx")
        self.source.path.write_text("obedient")
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.starts = 0
        self.restart = True
        self._slots: list[asyncio.Task[None]] = []
        self._channels: list[NetworkedChannel] = []

    async def start(self, workers: int) -> None:
        for index in range(len(self._slots), len(self._slots) + workers):
            self._slots.append(asyncio.create_task(self._supervise(f"test/{index}")))
        async with asyncio.timeout(90):
            while len(FolderDiscovery(self.folder / "workers").scan()) < len(self._slots):
                await asyncio.sleep(0.01)

    async def channel(self, name: str = "gateway", **options: Any) -> NetworkedChannel:
        """A gateway's end, with the model loaded on every worker that there is."""
        options = {"heartbeat": HEARTBEAT, "shared_bytes": 4 << 20, "worker_wait_s": 20} | options
        channel = NetworkedChannel(
            FolderDiscovery(self.folder / "workers", interval_s=0.02),
            NetworkOptions(name, **options),
        )
        self._channels.append(channel)
        await channel.load(KEY, self.source)
        await self.ready(channel, len(self._slots))
        return channel

    async def ready(self, channel: NetworkedChannel, count: int, seconds: float = 20) -> None:
        """Wait until so many workers hold the model."""
        async with asyncio.timeout(seconds):
            while sum(w.state == "ready" and w.models == 1 for w in channel.workers()) < count:
                await asyncio.sleep(0.005)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        process = self.processes[name]
        os.kill(process.pid, number)
        return process.pid

    async def close(self) -> None:
        self.restart = False
        for channel in self._channels:
            await channel.close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*self._slots)

    async def _supervise(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.cluster.channel.worker_process"]
        while self.restart:
            process = await asyncio.create_subprocess_exec(
                *command, str(self.folder), name, cwd=ROOT
            )
            self.starts += 1
            self.processes[name] = process
            if not self.restart:
                process.kill()
            await process.wait()


@asynccontextmanager
async def fleet(folder: Path, workers: int) -> AsyncIterator[Fleet]:
    made = Fleet(folder)
    try:
        await made.start(workers)
        yield made
    finally:
        await made.close()


def rows(*values: float, seconds: float = 0.0) -> dict[str, np.ndarray]:
    return {"x": np.array([[value, seconds] for value in values], np.float32)}


def batch(*parts: dict[str, np.ndarray], seconds: float = 20) -> Batch:
    return Batch(KEY, parts, None, time.monotonic() + seconds)

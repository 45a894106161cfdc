"""A real fleet under Ray: one more worker by Serve's REST API, and what the death of one costs."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models import MODELS, case_inputs, model_path
from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.fleet import local
from cluster.fleet.configuration import describe
from cluster.fleet.gateway import join
from cluster.fleet.local import FleetRecord
from cluster.fleet.processes import ProcessId
from cluster.fleet.ray_node import free_port
from cluster.fleet.status import look


@contextmanager
def fleet(path: Path, folder: Path, cache: Path) -> Iterator[FleetRecord]:
    """A fleet with one worker on one of this machine's two slots."""
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    description = describe(
        path,
        slots=2,
        leases=str(folder / "leases"),
        directory_port=free_port(),
        cache_dir=str(cache / "code"),
    )
    record = local.up(description, workers=1, dashboard_port=free_port())
    try:
        yield record
    finally:
        local.down(record)


@dataclass
class Times:
    """Seconds of every round.

    From the request for a second worker to its first answer; from the kill of one to the first
    answer of the process that stands in, and to that of the replica that Serve has started. For
    `early` the worker was killed as soon as its standby had been started.
    """

    ups: list[float] = field(default_factory=list)
    early: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    replacements: list[float] = field(default_factory=list)


def scale_up_and_recovery(name: str, folder: Path, cache: Path, rounds: int) -> Times:
    """Grow to two workers, kill one, shrink to one; `rounds` times."""
    path = model_path(MODELS[name], cache / "models")
    inputs = case_inputs(MODELS[name], MODELS[name].cases[0])
    with fleet(path, folder, cache) as record:
        return asyncio.run(_measure(record, path, inputs, rounds))


async def _measure(record: FleetRecord, path: Path, inputs: Any, rounds: int) -> Times:
    channel = join(record.directory, NetworkOptions(secret=record.secret))
    key = ModelKey(path.stem, 1, 1)
    await channel.load(key, ModelSource(path))
    times = Times()

    def grow() -> None:
        record.control.scale(record.name, 2)

    for turn in range(rounds + 1):
        known = _ready(channel)
        grown = await _until_new(channel, key, inputs, known, grow)
        await asyncio.to_thread(local.scale, record, 2, 60)
        for settled_s, recoveries in ((0.0, times.early), (2.0, times.recoveries)):
            victim = await _with_standby(record, settled_s)
            known = _ready(channel)
            began = time.perf_counter()
            kill = partial(os.kill, victim, signal.SIGKILL)
            recovered = await _until_new(channel, key, inputs, known, kill)
            known |= _ready(channel)
            await _until_new(channel, key, inputs, known, lambda: None)
            replaced = time.perf_counter() - began
            await asyncio.to_thread(local.scale, record, 2, 60)
            if turn:
                recoveries.append(recovered)
                times.replacements.append(replaced)
        await asyncio.to_thread(local.scale, record, 1, 60)
        while len(_ready(channel)) != 1:
            await asyncio.sleep(0.02)
        if turn:
            # The first round fills caches and starts Ray's first idle processes.
            times.ups.append(grown)
    await channel.close()
    return times


async def _with_standby(record: FleetRecord, settled_s: float) -> int:
    """The process id of the youngest worker, whose standby has been there for so long."""
    while True:
        workers = [worker for worker in (await look(record)).workers if worker["silent_s"] < 2]
        if len(workers) == 2 and not any(worker["stands_in"] for worker in workers):
            youngest = max(workers, key=lambda worker: _started(int(worker["pid"])))
            if youngest["standby"] is not None:
                await asyncio.sleep(settled_s)
                return int(youngest["pid"])
        await asyncio.sleep(0.02)


def _started(pid: int) -> int:
    process = ProcessId.of(pid)
    return process.started if process is not None else 0


def _ready(channel: NetworkedChannel) -> set[str]:
    return {one.incarnation for one in channel.workers() if one.state == "ready" and one.models}


async def _until_new(
    channel: NetworkedChannel,
    key: ModelKey,
    inputs: Any,
    known: set[str],
    act: Callable[[], object],
) -> float:
    """Seconds from `act` until a worker that was not known has answered a batch."""
    began = time.perf_counter()
    await asyncio.to_thread(act)
    while not _ready(channel) - known:
        await asyncio.sleep(0.005)
    # As many batches at once as there are workers: each goes to another one.
    count = len(_ready(channel))
    batch = Batch(key, (inputs,), None, time.monotonic() + 60)
    await asyncio.gather(*(channel.submit(batch) for _ in range(count)))
    return time.perf_counter() - began

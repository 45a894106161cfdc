"""From the wish for one more worker to its first answer, with warm caches."""

import asyncio
import time
from pathlib import Path

from benchmarks.fleet.processes import Processes
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.models.registry import Inputs
from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.discovery import FolderDiscovery


def scale_up(name: str, folder: Path, cache: Path, rounds: int) -> list[float]:
    """Seconds of each start but the first, which fills the caches."""
    model = MODELS[name]
    path = model_path(model, cache / "models")
    inputs = case_inputs(model, model.cases[0])
    seconds = []
    for turn in range(rounds + 1):
        place = folder / str(turn)
        with Processes(place, cache / "code") as processes:
            found = asyncio.run(_first_answer(processes, path, inputs))
            if turn:
                seconds.append(found)
    return seconds


async def _first_answer(processes: Processes, path: Path, inputs: Inputs) -> float:
    key = ModelKey(path.stem, 1, 1)
    discovery = FolderDiscovery(processes.workers, interval_s=0.02)
    channel = NetworkedChannel(discovery, NetworkOptions())
    began = time.perf_counter()
    processes.worker("new", "0", "--models", str(path), "--threads", "1")
    await channel.load(key, ModelSource(path, threads=1))
    await channel.submit(Batch(key, (inputs,), None, time.monotonic() + 60))
    seconds = time.perf_counter() - began
    await channel.close()
    return seconds

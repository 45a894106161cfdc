"""How long a large tensor takes to a worker: a batch of a model that does nothing."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet.processes import Processes
from cluster.channel import Batch, ModelKey, ModelSource
from cluster.channel.copying import join
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.discovery import FolderDiscovery

SECRET = "for one run of a benchmark"
IMAGE = (1, 3, 1080, 1920)
SMALL = (1, 3, 8, 8)
KEY = ModelKey("null", 1, 1)


def crossing(
    folder: Path, cache: Path, kind: str, image: str, calls: int
) -> dict[str, list[float]]:
    """Seconds of each call, for a 1080p image in fp32 and for next to nothing, in turns.

    `image` is `received` for one that lies where the gateway receives large requests, and `1080p`
    for one elsewhere in its memory. `one` and `all` are the seconds of a mere copy of the image,
    by one core and by all.
    """
    with Processes(folder, cache) as processes:
        processes.start("benchmarks.fleet.null_worker", str(folder), kind)
        processes.wait_for_workers(1)
        return asyncio.run(_measure(processes.workers, folder, image, calls))


async def _measure(workers: Path, folder: Path, kind: str, calls: int) -> dict[str, list[float]]:
    channel = NetworkedChannel(FolderDiscovery(workers), NetworkOptions(secret=SECRET))
    model = folder / "null.onnx"
    model.touch()
    await channel.load(KEY, ModelSource(model))
    rng = np.random.default_rng(0)
    # Several images in turns, so that none is in a cache because it was just sent.
    images = [rng.random(IMAGE, dtype=np.float32) for _ in range(4)]
    if kind == "received":
        images = [_received(channel, image) for image in images]
    small = np.ones(SMALL, np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in (kind, "small", "one", "all")}
    target = np.empty(IMAGE, np.float32)
    for call in range(calls + 4):
        image = images[call % 4]
        for name, tensor in ((kind, image), ("small", small)):
            began = time.perf_counter()
            batch = Batch(KEY, ({"image": tensor},), None, time.monotonic() + 30)
            answer = await channel.submit(batch)
            seconds[name].append(time.perf_counter() - began)
            assert answer["first"][0] == tensor[0, 0, 0, 0]
        # What the memory allows, in the same moment: the same copy within this process.
        for name, copy in (("one", _copy), ("all", join)):
            began = time.perf_counter()
            copy([image], target)
            seconds[name].append(time.perf_counter() - began)
    await channel.close()
    return {name: times[4:] for name, times in seconds.items()}


def _received(channel: NetworkedChannel, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy where the gateway receives the bodies of requests, if that is shared memory."""
    room = channel.buffer(image.nbytes)
    if room is None:
        return image
    place = room.view(np.float32).reshape(image.shape)
    place[...] = image
    return place


def _copy(parts: Sequence[NDArray[np.float32]], slot: NDArray[np.float32]) -> None:
    np.copyto(slot, parts[0])


def middle(seconds: list[float]) -> float:
    """The median."""
    return statistics.median(seconds)

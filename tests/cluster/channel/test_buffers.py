"""Requests that are received where workers read them: not copied, and never reused too early."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from cluster.channel import Batch, tensors
from cluster.channel.arena import Mapping
from cluster.channel.buffers import Buffers
from cluster.channel.networked import NetworkedChannel
from cluster.channel.wire import WireError
from tests.cluster.channel.fleet import KEY, Fleet, batch, fleet

SIZE = 1 << 20
ROWS = 40_000
"""Rows of the fleet's model that make a request large."""


@pytest.fixture
def buffers() -> Iterator[Buffers]:
    made = Buffers(SIZE)
    yield made
    made.close()


def lent(buffers: Buffers, shape: tuple[int, ...] = (2, 50_000)) -> np.ndarray:
    size = 4 * int(np.prod(shape))
    room = buffers.lend(size)
    assert room is not None
    tensor = room.view(np.float32).reshape(shape)
    tensor[...] = np.arange(tensor.size, dtype=np.float32).reshape(shape)
    return tensor


def test_a_block_is_free_when_the_last_array_over_it_is_gone(buffers: Buffers):
    room = buffers.lend(700_000)
    assert room is not None
    row = room[5:10].view(np.uint8)
    del room
    assert buffers.lend(700_000) is None
    del row
    assert buffers.lend(700_000) is not None


@pytest.mark.parametrize("aligned", [0, 1, 63, 64, 1000])
def test_the_tensors_of_a_body_are_aligned(buffers: Buffers, aligned: int):
    room = buffers.lend(100_000, aligned)
    assert room is not None
    assert len(room) == 100_000
    assert room[aligned:].ctypes.data % 64 == 0


def test_what_outlives_the_buffers_can_still_be_read():
    buffers = Buffers(SIZE)
    tensor = lent(buffers)
    buffers.close()
    assert tensor[1, 3] == 50_003


def test_a_part_in_the_buffers_is_told_by_its_place(buffers: Buffers):
    tensor = lent(buffers)
    parcel = tensors.pack_batch([{"x": tensor[1:]}], None, buffers)
    assert (parcel.frames, parcel.blocks) == ([], [])
    mapping = Mapping(buffers.offer())
    found = tensors.unpack(parcel.listing, [], None, mapping)["x"]
    np.testing.assert_array_equal(found, tensor[1:])
    assert not found.flags.writeable
    tensor[1, 0] = -1
    assert found[0, 0] == -1, "it is the same memory"


@pytest.mark.parametrize("kind", ["elsewhere", "strided", "joined", "small"])
def test_other_parts_are_copied(buffers: Buffers, kind: str):
    tensor = lent(buffers)
    parts = {
        "elsewhere": [tensor.copy()],
        "strided": [tensor[:, ::2]],
        "joined": [tensor, tensor],
        "small": [tensor[:1, :100]],
    }[kind]
    parcel = tensors.pack_batch([{"x": part} for part in parts], None, buffers)
    (frame,) = parcel.frames
    assert bytes(frame) == np.concatenate(parts).tobytes()


@pytest.mark.parametrize("place", [[0, 400], [4096, SIZE], [SIZE, 4], [-4, 4], [4096, 0]])
def test_a_place_outside_is_refused(buffers: Buffers, place: list[int]):
    mapping = Mapping(buffers.offer())
    with pytest.raises(WireError):
        tensors.unpack([["x", "float32", [100], [*place, "buffers"]]], [], None, mapping)
    with pytest.raises(WireError, match="not known here"):
        tensors.unpack([["x", "float32", [1], [4096, 4, "buffers"]]], [], mapping, None)


def test_what_a_worker_may_still_read_is_kept_until_it_has_ended(buffers: Buffers):
    tensor = lent(buffers, (150_000,))
    process = subprocess.Popen(["sleep", "60"])
    try:
        buffers.keep(process.pid, [Batch(KEY, ({"x": tensor},), None, 0.0)])
        del tensor
        assert buffers.lend(600_000) is None
    finally:
        process.kill()
        process.wait()
    assert buffers.lend(600_000) is not None


def test_what_nobody_can_tell_the_end_of_is_kept_for_good(buffers: Buffers):
    buffers.keep(0, [Batch(KEY, ({"x": lent(buffers, (150_000,))},), None, 0.0)])
    assert buffers.lend(600_000) is None


def test_of_the_dead_nothing_is_kept(buffers: Buffers):
    process = subprocess.Popen(["true"])
    process.wait()
    buffers.keep(process.pid, [Batch(KEY, ({"x": lent(buffers, (150_000,))},), None, 0.0)])
    assert buffers.lend(600_000) is not None


@asynccontextmanager
async def workers(folder: Path, count: int) -> AsyncIterator[Fleet]:
    async with fleet(folder, count) as made:
        yield made


def received(channel: NetworkedChannel, first: float) -> dict[str, np.ndarray]:
    room = channel.buffer(ROWS * 8)
    assert room is not None
    x = room.view(np.float32).reshape(ROWS, 2)
    x[:, 0] = np.arange(ROWS) + 1000
    x[:, 1] = 0
    x[0, 0] = first
    return {"x": x}


async def test_a_received_request_is_not_copied(tmp_path: Path, monkeypatch):
    async with workers(tmp_path, 1) as made:
        channel = await made.channel()
        copied = []
        join = tensors.join
        monkeypatch.setattr(tensors, "join", lambda *what: copied.append(what) or join(*what))
        for first in (1.0, 2.0):
            request = received(channel, first)
            answer = await channel.submit(batch(request))
            np.testing.assert_array_equal(answer["y"], request["x"] * 2)
        assert copied == []
        await channel.submit(batch({"x": request["x"].copy()}))
        assert len(copied) == 1
        assert channel.buffer(1000) is None


async def test_a_worker_that_is_stopped_keeps_what_it_was_given(tmp_path: Path):
    async with workers(tmp_path, 2) as made:
        channel = await made.channel()
        request = received(channel, 1.0)
        request["x"][0, 1] = 0.5  # seconds that it takes
        address = request["x"].ctypes.data
        held = channel.submit(batch(request))
        del request
        await asyncio.sleep(0.1)
        (victim,) = [worker.worker for worker in channel.workers() if worker.outstanding]
        made.kill(victim, signal.SIGSTOP)
        assert (await held)["y"][0, 0] == 2, "another worker answers"
        del held
        assert address not in addresses(channel)
        made.kill(victim)
        async with asyncio.timeout(10):
            while address not in addresses(channel):
                await asyncio.sleep(0.05)


def addresses(channel: NetworkedChannel) -> list[int]:
    """Where the next large requests would be received."""
    rooms = [channel.buffer(ROWS * 8) for _ in range(30)]
    return [room.ctypes.data for room in rooms if room is not None]

"""What every channel must do, whatever is behind it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from cluster.channel import Batch, ModelKey, ModelSource
from cluster.errors import DeadlineError, LoadError, ModelUnavailableError
from cluster.precision import PrecisionChoice
from cluster.ragged import split
from engine.errors import RunError
from tests.cluster.channel.conftest import Setup

SCALE = ModelKey("scale", 1, 1)
LOOKUP = ModelKey("lookup", 1, 2)
SEQUENCES = ModelKey("sequences", 1, 3)


def batch(key: ModelKey, *parts: dict, outputs: tuple[str, ...] | None = None, seconds: float = 20):
    return Batch(key, parts, outputs, time.monotonic() + seconds)


def rows(*values: float) -> dict:
    return {"x": np.array([[value] for value in values], np.float32)}


async def load(setup: Setup, key: ModelKey, **options):
    source = ModelSource(setup.folder / key.name / "1" / "model.onnx", **options)
    return await setup.channel.load(key, source)


async def test_load_describes_the_model(setup: Setup):
    stages = []
    source = ModelSource(setup.folder / "scale/1/model.onnx")
    description = await setup.channel.load(SCALE, source, lambda *step: stages.append(step))
    assert [(t.name, t.dtype, t.shape) for t in description.inputs] == [
        ("x", np.dtype(np.float32), ("N", "D"))
    ]
    assert [t.name for t in description.outputs] == ["y"]
    assert description.batch_axis
    assert setup.channel.describe(SCALE) == description
    assert stages


async def test_parts_are_joined_along_axis_0(setup: Setup):
    await load(setup, SCALE)
    answer = await setup.channel.submit(batch(SCALE, rows(1), rows(2, 3), rows(4)))
    np.testing.assert_array_equal(answer["y"], [[2], [4], [6], [8]])
    assert setup.loader.sessions[-1].runs[-1] == (4, 1)


def sentences(*sizes: tuple[int, int]) -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((*size, 3)).astype(np.float32)} for size in sizes]


@pytest.mark.parametrize("longest", [9, 20_000])
async def test_parts_of_different_lengths_run_together(setup: Setup, longest: int):
    """The longest tensors of 20,000 tokens go through shared memory where there is any."""
    description = await load(setup, SEQUENCES)
    assert description.ragged == ("N", "T")
    sizes = [(1, 5), (2, longest), (1, 1)]
    parts = sentences(*sizes)
    request = batch(SEQUENCES, *parts)
    answer = await setup.channel.submit(replace(request, ragged=True))
    session = setup.loader.sessions[-1]
    assert session.ragged_runs == [[(*size, 3) for size in sizes]]
    found = split(description.ragged, description.outputs, answer, sizes)
    for part, own in zip(parts, found, strict=True):
        alone = await setup.channel.submit(batch(SEQUENCES, part))
        assert own.keys() == alone.keys() == {"y", "mean"}
        for name, array in alone.items():
            np.testing.assert_array_equal(own[name], array)


async def test_only_asked_outputs_come_back(setup: Setup):
    await load(setup, SCALE)
    assert list(await setup.channel.submit(batch(SCALE, rows(1), outputs=("y",)))) == ["y"]


async def test_a_slot_is_taken_until_the_batch_ends(setup: Setup):
    await load(setup, SCALE)
    called = []
    setup.channel.on_idle(lambda: called.append(setup.channel.idle(SCALE)))
    setup.loader.hold()
    assert setup.channel.idle(SCALE)
    running = setup.channel.submit(batch(SCALE, rows(1)))
    assert not setup.channel.idle(SCALE)
    await asyncio.sleep(0.02)
    assert not running.done()
    setup.loader.release()
    await running
    assert setup.channel.idle(SCALE)
    assert called == [True]


async def test_an_error_of_the_run_reaches_the_caller(setup: Setup):
    await load(setup, LOOKUP)
    with pytest.raises(RunError, match="lookup"):
        await setup.channel.submit(batch(LOOKUP, {"index": np.array([99])}))
    answer = await setup.channel.submit(batch(LOOKUP, {"index": np.array([1])}))
    np.testing.assert_array_equal(answer["y"], [[2, 3]])


async def test_a_batch_past_its_deadline_is_not_run(setup: Setup):
    await load(setup, SCALE)
    before = len(setup.loader.sessions[-1].runs)
    with pytest.raises(DeadlineError):
        await setup.channel.submit(batch(SCALE, rows(1), seconds=-1))
    assert len(setup.loader.sessions[-1].runs) == before
    assert setup.channel.idle(SCALE)


async def test_giving_up_on_an_answer_frees_the_slot_when_the_run_ends(setup: Setup):
    await load(setup, SCALE)
    setup.loader.hold()
    given_up = setup.channel.submit(batch(SCALE, rows(1)))
    await asyncio.sleep(0.02)
    given_up.cancel()
    idle = asyncio.Event()
    setup.channel.on_idle(idle.set)
    setup.loader.release()
    await asyncio.wait_for(idle.wait(), 5)
    assert setup.channel.idle(SCALE)


async def test_unload_waits_for_running_batches(setup: Setup):
    await load(setup, SCALE)
    setup.loader.hold()
    running = setup.channel.submit(batch(SCALE, rows(1)))
    await asyncio.sleep(0.02)
    unloading = asyncio.create_task(setup.channel.unload(SCALE))
    await asyncio.sleep(0.02)
    assert not unloading.done()
    with pytest.raises(ModelUnavailableError):
        setup.channel.describe(SCALE)
    setup.loader.release()
    np.testing.assert_array_equal((await running)["y"], [[2]])
    await unloading
    assert setup.loader.sessions[-1].closed


async def test_unloading_what_is_not_loaded_does_nothing(setup: Setup):
    await setup.channel.unload(ModelKey("nobody", 1, 1))
    assert setup.channel.stats(ModelKey("nobody", 1, 1)) == {}


async def test_submitting_to_what_is_not_loaded_is_refused(setup: Setup):
    with pytest.raises(ModelUnavailableError, match="'scale' version 1"):
        await setup.channel.submit(batch(SCALE, rows(1)))
    assert setup.channel.idle(SCALE)


async def test_a_broken_file_is_a_load_error_and_leaves_no_trace(setup: Setup):
    key = ModelKey("broken", 1, 1)
    with pytest.raises(LoadError, match="model 'broken' version 1"):
        await setup.channel.load(key, ModelSource(setup.folder / "broken.onnx"))
    with pytest.raises(ModelUnavailableError):
        setup.channel.describe(key)


async def test_warmup_runs_before_the_model_serves(setup: Setup):
    await load(setup, SCALE, warmup=({"x": [3, 5]}, {"x": [1, 2]}))
    assert setup.loader.sessions[-1].runs == [(3, 5), (1, 2)]


async def test_the_precision_reaches_the_loader(setup: Setup):
    choice = PrecisionChoice("bf16", (), 7)
    await load(setup, SCALE, precision=choice)
    assert setup.loader.precisions[-1] == choice


@pytest.mark.parametrize(
    ("warmup", "message"),
    [({"z": [1]}, "no input"), ({}, "no shape given"), ({"x": [1 << 39, 1 << 39]}, "warm-up")],
)
async def test_a_failed_warmup_fails_the_load(setup: Setup, warmup: dict, message: str):
    with pytest.raises(LoadError, match=message):
        await load(setup, SCALE, warmup=(warmup,))
    assert setup.loader.sessions[-1].closed


async def test_without_a_warmup_fixed_rows_are_run_at_batch_one(setup: Setup):
    await load(setup, LOOKUP)
    assert setup.loader.sessions[-1].runs == [(1,)]


async def test_close_finishes_running_batches(setup: Setup):
    await load(setup, SCALE)
    setup.loader.hold()
    running = setup.channel.submit(batch(SCALE, rows(1)))
    await asyncio.sleep(0.02)
    closing = asyncio.create_task(setup.channel.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    setup.loader.release()
    await closing
    assert (await running)["y"] == 2
    assert setup.loader.sessions[-1].closed


async def test_a_large_request_may_be_received_where_the_worker_reads_it(
    setup: Setup, request: pytest.FixtureRequest
):
    """On one machine only: elsewhere there is nothing to gain, and a body of one's own will do."""
    await load(setup, SCALE)
    room = setup.channel.buffer(400_000, aligned=24)
    expected = request.node.callspec.params["setup"] in ("ipc-reference", "ipc-engine")
    assert (room is not None) == expected
    x = np.random.default_rng(0).random((2, 50_000), dtype=np.float32)
    if room is not None:
        room[...] = x.reshape(-1).view(np.uint8)
        x = room.view(np.float32).reshape(x.shape)
    answer = await setup.channel.submit(batch(SCALE, {"x": x}))
    np.testing.assert_array_equal(answer["y"], 2 * x)

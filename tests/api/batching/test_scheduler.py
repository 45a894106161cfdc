"""Batching, seen from the number of runs; cases of Triton's L0_batcher that apply."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import OverloadedError
from cluster.channel import Batch
from cluster.config import ModelConfig
from cluster.errors import DeadlineError, PoisonError
from engine.errors import RunError
from tests.api.batching.conftest import Bench
from tests.cluster import small_models


def row(value: float, width: int = 2, rows: int = 1) -> np.ndarray:
    return np.full((rows, width), value, np.float32)


async def answers(*tasks: asyncio.Task) -> list:
    return [result.outputs["y"] for result in await asyncio.gather(*tasks)]


async def test_an_idle_worker_never_waits(bench):
    b = await bench()
    result = await asyncio.wait_for(b.send(row(1)), 5)
    np.testing.assert_array_equal(result.outputs["y"], row(1))
    assert b.runs == [(1, 2)]
    assert (b.statistics.inferences, b.statistics.executions) == (1, 1)


async def test_requests_of_one_turn_share_the_first_batch(bench):
    b = await bench()
    await answers(*(b.send(row(i)) for i in range(5)))
    assert b.runs == [(5, 2)]


async def test_a_batch_forms_while_the_worker_is_busy(bench):
    b = await bench()
    first = await b.occupy(row(0))
    rest = [b.send(row(i)) for i in range(1, 8)]
    await b.settle(7)
    b.loader.release()
    for value, answer in enumerate(await answers(first, *rest)):
        np.testing.assert_array_equal(answer, row(value))
    assert b.runs == [(1, 2), (7, 2)]
    assert b.statistics.inferences / b.statistics.executions == 4
    assert b.statistics.batches[7].count == 1


@pytest.mark.parametrize("shapes", [2, 4, 8])
async def test_multi_batch_different_shape(bench, shapes):
    """Interleaved shapes do not cut each other's batches: K shapes take K runs, whatever K is."""
    b = await bench()
    first = await b.occupy(row(-1, width=100))
    rest = [b.send(row(i, width=1 + i % shapes)) for i in range(8 * shapes)]
    await b.settle(8 * shapes)
    b.loader.release()
    for i, answer in enumerate((await answers(first, *rest))[1:]):
        np.testing.assert_array_equal(answer, row(i, width=1 + i % shapes))
    assert sorted(b.runs[1:]) == [(8, width) for width in range(1, shapes + 1)]
    assert b.statistics.executions == 1 + shapes


def sentence(length: int, rows: int = 1) -> np.ndarray:
    values = np.random.default_rng(length).standard_normal((rows, length, 3))
    return values.astype(np.float32)


async def test_requests_of_different_lengths_share_a_batch(bench):
    b = await bench(small_models.sequences())
    first = await b.occupy(sentence(3))
    sizes = [(5, 1), (1, 2), (120, 1), (5, 3)]
    rest = [b.send(sentence(*size)) for size in sizes]
    await b.settle(len(sizes))
    b.loader.release()
    found = await answers(first, *rest)
    session = b.loader.sessions[0]
    assert session.ragged_runs == [[(rows, length, 3) for length, rows in sizes]]
    for size, answer in zip([(3, 1), *sizes], found, strict=True):
        alone = session.run({"x": sentence(*size)}, ["y"])["y"]
        np.testing.assert_array_equal(answer, alone)
    assert b.statistics.inferences == 8
    assert b.statistics.executions == 2
    assert b.statistics.batches[7].count == 1


async def test_equal_lengths_are_an_ordinary_batch(bench):
    b = await bench(small_models.sequences())
    await answers(*(b.send(sentence(8)) for _ in range(3)))
    assert b.runs == [(3, 8, 3)]
    assert b.loader.sessions[0].ragged_runs == []


async def test_lengths_stay_apart_where_the_model_is_configured_so(bench, monkeypatch):
    b = await bench(small_models.sequences())
    monkeypatch.setattr(b.model, "config", ModelConfig(ragged=False))
    first = await b.occupy(sentence(3))
    rest = [b.send(sentence(length)) for length in (5, 6, 5)]
    await b.settle(3)
    b.loader.release()
    await answers(first, *rest)
    assert sorted(b.runs[1:]) == [(1, 6, 3), (2, 5, 3)]


async def test_a_ragged_answer_of_another_size_is_taken_apart_by_running_alone(bench, monkeypatch):
    b = await bench(small_models.sequences())
    first = await b.occupy(sentence(3))
    rest = [b.send(sentence(length)) for length in (5, 6)]
    await b.settle(2)

    async def wrong(feeds, outputs=None):
        return [{"y": np.zeros(1, np.float32)} for _ in feeds]

    monkeypatch.setattr(b.loader.sessions[0], "run_ragged_async", wrong)
    b.loader.release()
    for length, answer in zip((3, 5, 6), await answers(first, *rest), strict=True):
        assert answer.shape == (1, length, 4)
    assert b.runs[1:] == [(1, 5, 3), (1, 6, 3)]


async def test_multi_row_requests_fill_up_to_the_limit(bench):
    b = await bench(max_batch_size=8)
    first = await b.occupy(row(0))
    sizes = [3, 3, 3, 8, 20, 1, 1]
    rest = [b.send(row(i, rows=rows)) for i, rows in enumerate(sizes)]
    await b.settle(len(sizes))
    b.loader.release()
    for i, (rows, answer) in enumerate(zip(sizes, (await answers(first, *rest))[1:], strict=True)):
        np.testing.assert_array_equal(answer, row(i, rows=rows))
    assert [shape[0] for shape in b.runs] == [1, 6, 3, 8, 20, 2]


async def test_models_whose_rows_depend_on_each_other_run_alone(bench):
    b = await bench(small_models.row_total())
    first = await b.occupy(row(1, width=3))
    rest = [b.send(row(i, width=3)) for i in (2, 3)]
    await b.settle(2)
    b.loader.release()
    found = await answers(first, *rest)
    assert [answer[0, 0] for answer in found] == [2, 4, 6]
    assert b.runs == [(1, 3)] * 3


async def test_a_batch_size_of_one_runs_every_request_alone(bench):
    b = await bench(max_batch_size=1)
    await answers(*(b.send(row(i)) for i in range(3)))
    assert b.runs == [(1, 2)] * 3


async def test_requests_without_rows_run_alone(bench):
    b = await bench()
    first = await b.occupy(row(0))
    rest = [b.send(row(0, rows=0)), b.send(row(1)), b.send(row(2))]
    await b.settle(3)
    b.loader.release()
    assert [answer.shape for answer in await answers(first, *rest)][1] == (0, 2)
    assert sorted(b.runs) == [(0, 2), (1, 2), (2, 2)]


async def test_a_failing_row_does_not_fail_its_batch_mates(bench):
    b = await bench(small_models.lookup())
    first = await b.occupy(np.array([0]))
    rest = [b.send(np.array([index])) for index in (1, 99, 2, -77, 3)]
    await b.settle(5)
    b.loader.release()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    for index, result in zip((0, 1, 99, 2, -77, 3), results, strict=True):
        if index in (99, -77):
            assert isinstance(result, RunError)
        else:
            np.testing.assert_array_equal(result.outputs["y"], [[2 * index, 2 * index + 1]])
    assert b.statistics.inferences == 4
    assert b.channel.idle(b.model.key)


async def test_outputs_are_split_without_copies(bench):
    b = await bench()
    first, second = await answers(b.send(row(1)), b.send(row(2)))
    assert first.base is not None
    assert first.base is second.base


async def test_priorities(bench):
    """1 goes first, requests without a priority have the default, equals go by arrival."""
    b = await bench(max_batch_size=1, default_priority=5)
    first = await b.occupy(row(0))
    done = []
    for name, priority in (("a", 0), ("b", 9), ("c", 1), ("d", 5), ("e", 1)):
        task = b.send(row(1), priority=priority)
        task.add_done_callback(lambda _, name=name: done.append(name))
    await b.settle(5)
    b.loader.release()
    await first
    while len(done) < 5:
        await asyncio.sleep(0.001)
    assert done == ["c", "e", "a", "d", "b"]


async def test_the_lane_of_the_oldest_request_goes_first(bench):
    b = await bench()
    first = await b.occupy(row(0))
    rest = [b.send(row(0, width=width)) for width in (7, 8, 7, 9, 8)]
    await b.settle(5)
    b.loader.release()
    await answers(first, *rest)
    assert b.runs[1:] == [(2, 7), (2, 8), (1, 9)]


async def test_a_full_queue_refuses_at_once(bench):
    b = await bench(max_queue=3)
    first = await b.occupy(row(0))
    rest = [b.send(row(i)) for i in range(3)]
    await b.settle(3)
    with pytest.raises(OverloadedError, match="3 requests wait already") as error:
        await b.send(row(9))
    assert error.value.retry_after >= 1
    b.loader.release()
    assert len(await answers(first, *rest)) == 4
    await b.send(row(5))


async def test_the_queue_limit_of_a_model_wins(bench):
    b = await bench()
    await b.catalog.load("model", ModelConfig(max_queue=1, max_batch_size=1))
    first = await b.occupy(row(0))
    second = b.send(row(1))
    await b.settle(1)
    with pytest.raises(OverloadedError):
        await b.send(row(2))
    b.loader.release()
    await answers(first, second)


async def test_a_deadline_in_the_queue(bench):
    b = await bench()
    first = await b.occupy(row(0))
    late = b.send(row(1), timeout_s=0.05)
    patient = b.send(row(2))
    await b.settle(2)
    with pytest.raises(DeadlineError, match="deadline"):
        await late
    assert b.scheduler.waiting(b.model.key) == 1
    b.loader.release()
    await answers(first, patient)
    assert b.runs == [(1, 2), (1, 2)], "the late row is not run"


async def test_a_deadline_during_the_run(bench):
    b = await bench()
    b.loader.hold()
    late, patient = b.send(row(1), timeout_s=0.05), b.send(row(2))
    with pytest.raises(DeadlineError):
        await late
    b.loader.release()
    np.testing.assert_array_equal((await answers(patient))[0], row(2))


async def test_the_server_bounds_deadlines(bench):
    b = await bench(request_timeout_s=0.05)
    b.loader.hold()
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(b.send(row(1), timeout_s=1000), 5)


async def test_a_cancelled_request_leaves_the_forming_batch(bench):
    b = await bench()
    first = await b.occupy(row(0))
    rest = [b.send(row(i)) for i in range(1, 4)]
    await b.settle(3)
    rest[1].cancel()
    await b.settle(2)
    b.loader.release()
    await asyncio.gather(first, rest[0], rest[2])
    assert b.runs == [(1, 2), (2, 2)]


async def test_cancelling_a_running_request_leaves_its_mates_alone(bench):
    b = await bench()
    b.loader.hold()
    tasks = [b.send(row(i)) for i in range(3)]
    while b.channel.idle(b.model.key):
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    b.loader.release()
    found = await answers(*tasks[1:])
    np.testing.assert_array_equal(found[1], row(2))


async def test_a_deeper_pipeline_runs_batches_at_once(bench):
    b = await bench(depth=2)
    b.loader.hold()
    tasks = []
    for i in range(2):
        tasks.append(b.send(row(i)))
        await asyncio.sleep(0.01)
    assert b.scheduler.waiting(b.model.key) == 0
    assert not b.channel.idle(b.model.key)
    b.loader.release()
    await answers(*tasks)
    assert b.runs == [(1, 2), (1, 2)]


async def test_requests_of_an_old_incarnation_finish_on_it(bench):
    b = await bench(small_models.scale(2))
    first = await b.occupy(row(1))
    with b.model as old:
        second = asyncio.create_task(b.scheduler.infer(old, {"x": row(1)}, ["y"]))
        await asyncio.sleep(0)
        small_models.store(b.catalog.repository.root, "model", small_models.scale(3))
        await b.catalog.load("model", ModelConfig(max_batch_size=4))
        third = b.send(row(1))
        await asyncio.sleep(0)
        b.loader.release()
        found = await answers(first, second, third)
    assert [answer[0, 0] for answer in found] == [2, 2, 3]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 3)), max_size=30),
    st.integers(1, 8),
)
def test_every_request_gets_its_own_rows(tmp_path_factory, requests, limit):
    """Whatever the mix of row counts, widths and priorities: own values, nothing lost."""

    async def scenario() -> None:
        b = Bench(tmp_path_factory.mktemp("mix"), small_models.identity(), 1, max_batch_size=limit)
        await b.open()
        first = await b.occupy(row(-1))
        tasks = [
            b.send(row(i, width=width, rows=rows), priority=priority)
            for i, (rows, width, priority) in enumerate(requests)
        ]
        await b.settle(len(requests))
        b.loader.release()
        found = await answers(first, *tasks)
        for i, ((rows, width, _), answer) in enumerate(zip(requests, found[1:], strict=True)):
            np.testing.assert_array_equal(answer, row(i, width=width, rows=rows))
        assert all(shape[0] <= max(limit, 5) for shape in b.runs)
        assert b.statistics.inferences == 1 + sum(rows for rows, _, _ in requests)
        assert b.scheduler.waiting(b.model.key) == 0
        await b.catalog.close()
        await b.channel.close()

    asyncio.run(scenario())


async def test_a_poisonous_request_fails_alone(bench, monkeypatch):
    """What a worker's death says of a batch: the guilty are refused, the others run again."""
    b = await bench()
    run = b.channel.submit

    def submit(batch: Batch) -> asyncio.Future:
        guilty = frozenset(i for i, part in enumerate(batch.parts) if part["x"][0, 0] == 666)
        if not guilty:
            return run(batch)
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(PoisonError("ended a worker", guilty))
        return refused

    monkeypatch.setattr(b.channel, "submit", submit)
    tasks = [b.send(row(value)) for value in (1, 666, 2, 666, 3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[1::2]] == [PoisonError, PoisonError]
    for value, result in zip((1, 2, 3), results[::2], strict=True):
        np.testing.assert_array_equal(result.outputs["y"], row(value))

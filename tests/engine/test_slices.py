"""Slices of a batch: the same bytes, fewer rows at a time, and only where that pays."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.choices import slices_of
from engine.runner import Runner
from engine.slices import Slices
from tests.engine.models import chain

WIDTH = 96


def loaded(threads: int, cache: int, weight_bytes: int = 0) -> engine.Session:
    """A session that believes in a last-level cache of `cache` bytes."""
    session = engine.load(chain(width=WIDTH, layers=4), threads=threads)
    assert session.batch_axis
    symbol = str(session.inputs[0].shape[0])
    runner(session).slice(Slices(symbol, weight_bytes, cache))
    return session


def runner(session: engine.Session) -> Runner:
    direct = session._state.direct
    assert direct is not None
    return direct.runner


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, WIDTH)).astype(np.float32)}


def slices(session: engine.Session, count: int) -> list[tuple[int, int]]:
    """How a batch of `count` rows is cut."""
    symbol = str(session.inputs[0].shape[0])
    return [(begin, end) for begin, end, _ in runner(session).bind({symbol: count}).slices]


@pytest.mark.parametrize("threads", [1, 2])
async def test_slices_give_the_bytes_of_the_whole(threads: int) -> None:
    whole = engine.load(chain(width=WIDTH, layers=4), threads=threads)
    session = loaded(threads, cache=1 << 20)
    for count in (0, 1, 500, 1201, 2500):
        feed = rows(count)
        expected = whole.run(feed)["y"].tobytes()
        for _ in range(2):
            assert session.run(feed)["y"].tobytes() == expected
            assert (await session.run_async(feed))["y"].tobytes() == expected
        bound = session.bind(feed)
        bound()
        assert bound.outputs["y"].tobytes() == expected
    assert len(slices(session, 2500)) > 2


def test_slices_cover_every_row_once_and_differ_by_one_row_at_most() -> None:
    session = loaded(1, cache=1 << 20)
    found = slices(session, 2503)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == 2503
    assert {end - begin for begin, end in found} == {2503 // len(found), 2503 // len(found) + 1}


def test_activations_of_a_slice_fit_the_cache() -> None:
    session = loaded(1, cache=1 << 20)
    symbol = str(session.inputs[0].shape[0])
    ready = runner(session).bind({symbol: 2500})
    assert ready.bound.arena > 1 << 20
    assert all(part.bound.arena <= 1 << 20 for *_, part in ready.slices)


def test_batches_that_fit_stay_whole() -> None:
    assert slices(loaded(1, cache=1 << 30), 2500) == []
    assert slices(loaded(1, cache=1), 1) == []


def test_weights_that_are_read_once_per_slice_keep_a_batch_whole() -> None:
    assert slices(loaded(1, cache=1 << 20, weight_bytes=64 << 20), 2500) == []


def test_slices_of_few_rows_are_not_worth_slower_products() -> None:
    # A register tile takes several rows: one row at a time would compute for longer.
    assert slices(loaded(1, cache=1), 64) == []


def test_slices_are_told() -> None:
    session = loaded(1, cache=1 << 20)
    assert slices_of(session, rows(3)) == ()
    found = slices_of(session, rows(2500))
    assert sum(found) == 2500
    assert len(found) == len(slices(session, 2500)) > 1

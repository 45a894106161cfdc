"""Streams of random shapes: what is sampled, and that memory stays within its bounds."""

import numpy as np
import pytest
from rich.status import Status

from benchmarks import memory
from benchmarks.engines import OURS, EngineSetup


def test_steps_add_up() -> None:
    for requests in (500, 501, 777, 10_000):
        found = list(memory.steps(requests))
        assert found[0] == memory.SETTLED
        assert sum(found) == requests


def test_streams_stay_within_what_they_say() -> None:
    rng = np.random.default_rng(3)
    shapes = np.array([memory.images(rng)["image"].shape for _ in range(30)])
    assert (shapes[:, [0, 2, 3]] >= [1, 32, 32]).all()
    assert (shapes[:, [0, 2, 3]] <= [8, 1100, 1100]).all()


@pytest.mark.slow
@pytest.mark.parametrize("stream", memory.STREAMS)
def test_memory_stays(stream: str) -> None:
    row = memory.measure(stream, EngineSetup(OURS, 2), 10_000, Status(""))
    assert row.growth <= 1.1

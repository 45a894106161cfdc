"""Explaining one shape: every call, what it was predicted to cost, and between what was chosen."""

from pathlib import Path

import numpy as np
import pytest

import engine
from benchmarks.regret.choice import convolution
from engine.choices import shaped_calls


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> engine.Session:
    """A 3x3 convolution whose image size is symbolic."""
    folder: Path = tmp_path_factory.mktemp("cache")
    return engine.load(convolution(16, 16, 3), 1, cache_dir=folder)


def test_the_choice_follows_the_size_of_the_image(session: engine.Session) -> None:
    small, large = (
        [
            call
            for call in shaped_calls(session, {"x": np.ones((1, 16, side, side), np.float32)})
            if call.items and call.alternatives
        ]
        for side in (4, 64)
    )
    assert [call.chosen for call in small] == ["direct sum"]
    assert [call.chosen for call in large] == ["minimal filtering F(4x4, 3x3)"]
    assert "direct sum predicted at" in large[0].why
    for call in (*small, *large):
        least = min(call.alternatives, key=lambda each: each.predicted)
        assert least.name == call.chosen


def test_predictions_are_of_the_order_of_the_times(session: engine.Session) -> None:
    calls = shaped_calls(session, {"x": np.ones((2, 16, 48, 64), np.float32)})
    assert {call.kernel for call in calls} >= {"winograd", "dot", "copy_tiles"}
    assert all(call.predicted > 0 for call in calls if call.items)
    assert all(call.measured > 0 for call in calls)


def test_inputs_that_do_not_fit_are_refused(session: engine.Session) -> None:
    with pytest.raises(engine.InputError, match="'x' has shape"):
        shaped_calls(session, {"x": np.ones((1, 3, 8, 8), np.float32)})

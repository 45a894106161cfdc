"""Regret: the grid, forcing a candidate, and the arithmetic of rows."""

from pathlib import Path

import pytest

import engine
from benchmarks import regret


def test_regret_is_relative_to_the_best() -> None:
    row = regret.RegretRow(
        channels=1, outputs=1, side=1, filtered=2.0, direct=1.6, chosen="filtered"
    )
    assert row.regret == pytest.approx(0.25)
    assert row.model_copy(update={"chosen": "direct"}).regret == 0


def test_the_grid_covers_equal_widening_and_narrowing() -> None:
    shapes = regret.grid(quick=False)
    assert {shape.channels for shape in shapes} >= set(regret.CHANNELS)
    assert any(shape.outputs > shape.channels for shape in shapes)
    assert any(shape.outputs < shape.channels for shape in shapes)
    assert all(shape.flops <= regret.LARGEST_FLOPS for shape in shapes)


def test_a_candidate_can_be_forced(tmp_path: Path) -> None:
    shape = regret.Shape(16, 16, 5)
    data = regret.model(shape)
    assert regret.chosen(engine.load(data, 1, cache_dir=tmp_path), shape) == "direct"
    with regret.filtered_always():
        forced = engine.load(data, 1, cache_dir=tmp_path / "forced")
    assert regret.chosen(forced, shape) == "filtered"

"""Regret: the grids, forcing a candidate, and the arithmetic of a choice."""

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import engine
from benchmarks import tables
from benchmarks.regret import choice as choices
from benchmarks.regret import parts
from benchmarks.regret.__main__ import RegretReport, fixed, main, show
from benchmarks.regret.choice import (
    Choice,
    forced,
    image,
    kernels_run,
    least_seconds,
    representatives,
)
from tests.benchmarks.samples import provenance


def choice(chosen: str, **seconds: float) -> Choice:
    return Choice(part="filtering", case="some", seconds=seconds, chosen=chosen)


def test_regret_is_relative_to_the_best() -> None:
    assert choice("filtered", filtered=2.0, direct=1.6).regret == pytest.approx(0.25)
    assert choice("direct", filtered=2.0, direct=1.6).regret == 0


def test_the_best_single_candidate_is_named() -> None:
    found = [choice("a", a=1.0, b=2.0), choice("b", a=1.2, b=1.0)]
    assert fixed(found) == "a: 10.0 %"


def test_the_grid_covers_equal_widening_and_narrowing() -> None:
    found = parts.pairs()
    assert {channels for channels, _ in found} >= set(parts.CHANNELS)
    assert {(c > o) - (c < o) for c, o in found} == {-1, 0, 1}
    for channels, outputs in found:
        for side in parts.sides(channels, outputs):
            assert 18.0 * channels * outputs * side**2 <= parts.LARGEST_FLOPS


def test_an_algorithm_can_be_forced(tmp_path: Path) -> None:
    model = parts.convolution(16, 16, 3)
    inputs = image(16, 5)
    assert "winograd" not in kernels_run(engine.load(model, 1, cache_dir=tmp_path), inputs)
    with forced(parts.lowering, "filterings", parts.always(2)):
        filtered = engine.load(model, 1, cache_dir=tmp_path)
    assert "winograd" in kernels_run(filtered, inputs)
    assert "winograd" not in kernels_run(engine.load(model, 1, cache_dir=tmp_path), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("part", parts.PARTS)
def test_every_part_runs(part: str, tmp_path: Path) -> None:
    setup = parts.Setup(threads=1, rounds=1, cache=tmp_path, quick=True)
    for found in parts.PARTS[part](setup):
        assert found.chosen in found.seconds
        assert len(found.seconds) >= 2


def test_runs_are_shown_together(tmp_path: Path) -> None:
    files = []
    for number, chosen in enumerate(("filtered", "direct")):
        files.append(tmp_path / f"{number}.json")
        report = RegretReport(
            provenance=provenance(), threads=1, choices=[choice(chosen, filtered=2.0, direct=1.6)]
        )
        files[-1].write_text(report.model_dump_json())
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [f"--join={file}" for file in files])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(app, ["--parts=nonsense"]).exit_code == 2
    out = tables.console()
    show(
        out, [choice("filtered", filtered=2.0, direct=1.6), choice("direct", filtered=2, direct=2)]
    )
    assert "12.5 %" in out.export_text()


def test_candidates_that_do_the_same_are_one(tmp_path: Path) -> None:
    model = parts.product_model(1, 64, 256)
    tried = parts.schedules(parts.Tuning())
    sessions = {
        name: engine.load(model, 1, cache_dir=tmp_path, tuning=t) for name, t in tried.items()
    }
    one, many = (np.ones((rows, 64), np.float32) for rows in (1, 500))
    chosen = "96/8"
    assert representatives(sessions, {"x": one}, chosen)["192/8"] == chosen
    assert representatives(sessions, {"x": many}, chosen)["192/8"] != chosen
    seconds = least_seconds({chosen: sessions[chosen]}, {"x": one}, 2)
    assert 0 < seconds[chosen] < 0.1


def test_cases_that_were_measured_are_left_out(tmp_path: Path) -> None:
    setup = parts.Setup(1, 1, tmp_path, done=frozenset({("products", "b"), ("copying", "a")}))
    assert setup.left("products", [("a", 1), ("b", 2)]) == [("a", 1)]


def test_a_choice_that_looks_slow_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []

    def measured(sessions: object, inputs: object, count: int) -> dict[str, float]:
        rounds.append(count)
        return {"a": 1.0, "b": 1.2} if count == 5 else {"a": 1.0, "b": 1.01}

    monkeypatch.setattr(choices, "least_seconds", measured)
    assert choices.checked_seconds({}, {}, 5, "a") == {"a": 1.0, "b": 1.2}
    assert choices.checked_seconds({}, {}, 5, "b") == {"a": 1.0, "b": 1.01}
    assert rounds == [5, 5, 5 * choices.AGAIN]

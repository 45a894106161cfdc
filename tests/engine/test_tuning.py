"""Constants of schedules: kept per CPU, harmless when damaged, and without effect on bytes."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.caches import Caches
from engine.tuner import product_model, tune
from engine.tuning import Tuning, read_tuning, write_tuning


def test_constants_are_kept(tmp_path: Path) -> None:
    assert read_tuning("avx2", tmp_path) == Tuning()
    tuning = Tuning(row_block=48, items_per_thread=4, lane_flops_per_us=7000, inline_ns=9000)
    path = write_tuning("avx2", tuning, tmp_path)
    assert read_tuning("avx2", tmp_path) == tuning
    assert read_tuning("avx512", tmp_path) == Tuning()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 0},
        {"cpu": "another one"},
        {"constants": {"row_block": 0}},
        {"constants": {"row_block": "48"}},
        {"constants": {"unknown": 1}},
        {"constants": 7},
    ],
)
def test_what_does_not_fit_is_not_used(tmp_path: Path, damage: dict[str, object]) -> None:
    path = write_tuning("avx2", Tuning(row_block=48), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert read_tuning("avx2", tmp_path) == Tuning()
    path.write_text("{")
    assert read_tuning("avx2", tmp_path) == Tuning()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    row_block=st.integers(1, 400),
    items=st.integers(1, 40),
    rows=st.integers(0, 300),
    inline=st.sampled_from([1, 10**9]),
)
def test_no_constant_changes_a_byte(
    tmp_path_factory: pytest.TempPathFactory, row_block: int, items: int, rows: int, inline: int
) -> None:
    data = product_model(8, 70, 90)
    tuned = replace(Tuning(), row_block=row_block, items_per_thread=items, inline_ns=inline)
    x = np.random.default_rng(rows).standard_normal((rows, 70)).astype(np.float32)
    expected = engine.load(data, 1).run({"x": x})["y"]
    for threads in (1, 2):
        result = engine.load(data, threads, tuning=tuned).run({"x": x})["y"]
        assert result.tobytes() == expected.tobytes()


def test_constants_travel_with_the_other_caches(tmp_path: Path) -> None:
    tuning = Tuning(row_block=48)
    write_tuning("avx2", tuning, tmp_path / "here")
    (entry,) = Caches(tmp_path / "here").entries()
    assert (entry.store, entry.isa) == ("schedules", "avx2")
    assert entry.title == engine.cpu.machine().model_name
    Caches(tmp_path / "here").pack(tmp_path / "all.tar")
    Caches(tmp_path / "there").unpack(tmp_path / "all.tar")
    assert read_tuning("avx2", tmp_path / "there") == tuning


def test_loading_uses_what_was_measured(tmp_path: Path) -> None:
    data = product_model(8, 200, 200)
    before = engine.load(data, 2, cache_dir=tmp_path).stats()
    isa = engine.cpu.machine().isa
    write_tuning(isa, Tuning(row_block=7), tmp_path)
    after = engine.load(data, 2, cache_dir=tmp_path).stats()
    assert after["plan_misses"] == before["plan_misses"] + 1, "planned anew, since schedules differ"
    again = engine.load(data, 2, cache_dir=tmp_path).stats()
    assert again["plan_misses"] == after["plan_misses"]


@pytest.mark.slow
def test_tuning_gives_constants_that_can_be_kept(tmp_path: Path) -> None:
    tuning, findings = tune(2, None, tmp_path, rounds=2)
    assert {finding.name for finding in findings} == set(asdict(tuning))
    for finding in findings:
        assert getattr(tuning, finding.name) == finding.chosen
    assert write_tuning("avx2", tuning, tmp_path).parent.name == "schedules"

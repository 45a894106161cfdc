from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import engines, options, peers, turns
from benchmarks.comparison import Plan, compare_engines
from benchmarks.entrant import Entrant
from benchmarks.host import EngineHost
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.results import CaseResult, Loading, PeersReport

MLP = MODELS["mlp"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return model_path(MLP, tmp_path_factory.mktemp("models"))


def test_host_times_and_answers_in_process(path):
    host = EngineHost(engines.EngineSetup("onnxruntime", 1), "mlp", path)
    with pytest.raises(RuntimeError, match="load was not called"):
        host.prepare({"batch": 2})
    seconds, resident = host.load()
    assert seconds > 0
    assert isinstance(resident, int)
    assert host.prepare({"batch": 4})["logits"].shape == (4, 10)
    assert len(host.block(3, discard=1)) == 3
    assert host.visit({"batch": 7}) > 0


def test_openvino_agrees_and_hands_out_arrays_of_its_own(path):
    pytest.importorskip("openvino", reason="needs the extra bench")
    engine = engines.load(path, engines.EngineSetup("openvino", 1))
    oracle = engines.load(path, engines.EngineSetup("onnxruntime", 1))
    first_inputs, second_inputs = (case_inputs(MLP, {"batch": n}) for n in (3, 3 + 1))
    first = engine.run(first_inputs)["logits"]
    kept = first.copy()
    engine.run({"features": second_inputs["features"][:3]})
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(first, oracle.run(first_inputs)["logits"], atol=1e-4)


def test_an_engine_that_cannot_load_is_reported_and_the_others_go_on(tmp_path):
    plan = Plan(
        models=[MLP],
        engines=["onnxruntime", "no-such-engine"],
        threads=[1],
        pace=turns.Pace(rounds=1, block_seconds=0.001, pause_seconds=0.0),
        cache=tmp_path,
        small=True,
    )
    steadiness = turns.Steadiness(lambda threads: 100.0 * threads)
    results = list(compare_engines(plan, steadiness, lambda _: None))
    assert [type(result) for result in results] == [Loading, CaseResult]
    good, bad = results[1].latencies
    assert good.failure is None
    assert good.minimum is not None
    assert good.tolerance_used == 0.0
    assert results[1].core_speed == 100.0
    assert [visit.speed for visit in good.visits] == [100.0]
    assert bad.minimum is None
    assert bad.failure == "KeyError: 'no-such-engine'"


def test_a_plan_of_single_cases():
    plan = Plan([MLP], ["onnxruntime"], [1], turns.QUICK, Path(), only=frozenset({"b8"}))
    assert plan.missing(MLP, 1) == [{"batch": 8}]


def test_an_entrant_whose_process_died_takes_part_in_the_next_case(path):
    entrant = Entrant(engines.EngineSetup("onnxruntime", 1), MLP, path, timeout=60)
    try:
        assert entrant.load() is not None
        entrant._remote._process.kill()
        entrant._remote._process.join()
        assert entrant.prepare({"batch": 2}) is not None
        assert entrant.failure is None
    finally:
        entrant.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "alexnet"], "unknown model alexnet"),
        (["--threads", "0"], "not a list of positive integers"),
        (["--precision", "fp16"], "not fp32, bf16 or both"),
        (["--isa", "neon"], "not one of baseline, avx2, avx512"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(arguments, message):
    app = typer.Typer()
    app.command()(peers.main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_our_engine_takes_part_in_bf16_where_the_cpu_has_it(path, monkeypatch):
    monkeypatch.setattr(peers, "host_features", lambda: {"avx512bf16": True})
    names, notes = peers.entrants(("fp32", "bf16"))
    assert (names, notes) == (["packhorse", "onnxruntime", "openvino", *engines.BF16_ENGINES], [])
    monkeypatch.setattr(peers, "host_features", dict)
    assert peers.entrants(("bf16",))[0] == []
    feeds = case_inputs(MLP, {"batch": 2})
    plain, reduced = (
        engines.load(path, engines.EngineSetup(name, 1)).run(feeds)
        for name in (engines.OURS, engines.OURS_BF16)
    )
    for name, array in plain.items():
        error = np.abs(reduced[name] - array).max() / np.abs(array).max()
        assert 1e-5 < error < 0.05


def test_integer_lists():
    assert options.integers("1,2", "--threads") == (1, 2)
    with pytest.raises(typer.BadParameter):
        options.integers("1,x", "--threads")


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path):
    for module in ("openvino", "matplotlib"):
        pytest.importorskip(module, reason="needs the extra bench")
    app = typer.Typer()
    app.command()(peers.main)
    json_file, plot = tmp_path / "out" / "peers.json", tmp_path / "peers.png"
    page = tmp_path / "docs" / "performance.md"
    arguments = ["--quick", "--models", "mlp", "--threads", "1", "--cache", str(tmp_path)]
    files = ["--json", str(json_file), "--plot", str(plot), "--page", str(page)]
    result = CliRunner().invoke(app, [*arguments, *files])
    assert result.exit_code == 0, result.output
    report = PeersReport.model_validate_json(json_file.read_text())
    assert [row.engine for row in report.cases[0].latencies][:3] == list(engines.FP32_ENGINES)
    assert all(row.peak_share for row in report.cases[0].latencies if row.engine == "openvino")
    assert plot.stat().st_size > 0
    text = page.read_text()
    assert "](../peers.png)" in text
    assert "Speed-up, geometric means" in text

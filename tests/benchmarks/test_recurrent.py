from pathlib import Path

import pytest
import typer
from PIL import Image

from benchmarks import tables, turns
from benchmarks.comparison import Plan
from benchmarks.models import LAYERS, case_name, find
from benchmarks.models.recurrent import recurrent_weight_bytes
from benchmarks.recurrent import (
    earlier,
    markdown,
    show_groups,
    show_missing,
    steadier,
)
from benchmarks.recurrent_chart import draw_steps
from benchmarks.results import CaseResult, PeersReport
from benchmarks.summary import slow_cases
from tests.benchmarks import samples


def layer_case(cell: str, hidden: int, batch: int, threads: int, **seconds: float) -> CaseResult:
    case = samples.case(f"{cell} {hidden}", threads, batch=batch, **seconds)
    return case.model_copy(
        update={
            "model": f"{cell.lower()}_{hidden}",
            "case": f"b{batch} l50",
            "dims": {"batch": batch, "length": 50},
        }
    )


def report() -> PeersReport:
    cases = [
        layer_case(cell, hidden, batch, threads, packhorse=1e-3, onnxruntime=2e-3, openvino=3e-3)
        for cell in ("LSTM", "GRU")
        for hidden in (128, 512)
        for batch in (1, 8)
        for threads in (1, 2)
    ]
    return samples.report().model_copy(update={"cases": cases})


def test_every_group_has_its_mean_and_worst_case() -> None:
    out = tables.console()
    slow = layer_case("GRU", 256, 1, 1, packhorse=2e-3, onnxruntime=1e-3, openvino=3e-3)
    show_groups(out, [*report().cases, slow])
    lines = out.export_text().splitlines()
    row = next(
        line for line in lines if "hidden up to 256" in line and " 1 " in line and "GRU" in line
    )
    assert "1.00x" in row
    assert "0.50x" in row
    assert "GRU 256" in row


def test_the_chart_shows_engines_and_limits(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    draw_steps(report(), tmp_path / "new" / "steps.png")
    with Image.open(tmp_path / "new" / "steps.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (0x0B, 0x7A, 0x55) in colours
    draw_steps(report().model_copy(update={"cases": []}), tmp_path / "nothing.png")


def test_layers_are_found_and_weigh_what_they_should() -> None:
    assert find("lstm_256") is LAYERS["lstm_256"]
    assert recurrent_weight_bytes("LSTM", 256) == 1 << 20
    model = LAYERS["gru_128"].build()
    recurrence = next(w for w in model.graph.initializer if w.name.startswith("recurrence"))
    assert len(recurrence.raw_data) == recurrent_weight_bytes("GRU", 128)


def test_the_page_names_its_command(tmp_path: Path) -> None:
    text = markdown("table", tmp_path / "page.md", tmp_path / "plot.png")
    assert "python -m benchmarks.recurrent --page" in text
    assert "(plot.png)" in text


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    half = report()
    path = tmp_path / "half.json"
    assert earlier(path, half.provenance) is None
    path.write_text(half.model_dump_json())
    assert earlier(path, half.provenance) == half
    known = frozenset((case.model, case.case, case.threads) for case in half.cases)
    pace = turns.QUICK
    plan = Plan([LAYERS["lstm_128"]], [], [1], pace, tmp_path, known=known)
    missing = {case_name(dims) for dims in plan.missing(LAYERS["lstm_128"], 1)}
    assert "b1 l50" not in missing
    assert {"b1 l10", "b32 l50"} <= missing
    assert len(plan.missing(LAYERS["lstm_128"], 4)) == len(LAYERS["lstm_128"].cases)


def test_a_part_says_that_it_is_one() -> None:
    out = tables.console()
    show_missing(out, report().cases)
    assert "16 of 144 cases were measured" in out.export_text()


def test_results_of_other_code_are_not_added_to(tmp_path: Path) -> None:
    half = report()
    path = tmp_path / "half.json"
    path.write_text(half.model_dump_json())
    other = half.provenance.model_copy(update={"commit": "0123456789ab"})
    with pytest.raises(typer.BadParameter, match="0123456789ab"):
        earlier(path, other)
    with pytest.raises(typer.BadParameter, match="--json"):
        earlier(None, other)


def test_the_steadier_of_two_results_counts_whatever_it_found() -> None:
    steady = report().cases[0]
    slow = steady.model_copy(update={"core_speed": steady.core_speed / 2, "latencies": []})
    other = report().cases[1]
    assert slow_cases([steady, slow, other]) == [slow]
    assert steadier([slow, other, steady]) == [steady, other]
    assert steadier([steady, other, slow]) == [steady, other]

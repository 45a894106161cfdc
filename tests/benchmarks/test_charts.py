import pytest
from PIL import Image

from benchmarks.charts import draw_peers
from tests.benchmarks import samples

pytest.importorskip("matplotlib", reason="needs the extra bench")


def test_a_chart_of_every_case_is_written(tmp_path):
    path = tmp_path / "new" / "peers.png"
    draw_peers(samples.report(), path)
    with Image.open(path) as image:
        assert image.width > 1200
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (0x0B, 0x7A, 0x55) in colours, "our markers are missing"


def test_a_chart_without_our_engine_or_any_figures(tmp_path):
    report = samples.report()
    without = report.model_copy(update={"cases": report.cases[2:]})
    draw_peers(without, tmp_path / "peers.png")
    nothing = report.cases[0].model_copy(update={"latencies": []})
    draw_peers(report.model_copy(update={"cases": [nothing]}), tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 0

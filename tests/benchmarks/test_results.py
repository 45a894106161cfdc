import json

import pydantic
import pytest

from benchmarks.comparison import with_peak_shares
from benchmarks.results import PeersReport, ShapesReport, StartupReport
from tests.benchmarks import samples


def test_a_report_survives_json():
    report = samples.report()
    assert PeersReport.model_validate_json(report.model_dump_json()) == report


def test_the_json_holds_what_readers_rely_on():
    data = json.loads(samples.report().model_dump_json())
    assert set(data) == {"provenance", "limits", "notes", "cases", "loadings"}
    first = data["cases"][0]
    assert {"model", "case", "dims", "threads", "gflop", "core_speed"} <= set(first)
    assert first["latencies"][0]["engine"] == "packhorse"
    assert first["latencies"][0]["minimum"] == 1e-3


@pytest.mark.parametrize("report", [PeersReport, ShapesReport, StartupReport])
def test_every_report_has_a_json_schema_that_forbids_unknown_fields(report):
    schema = report.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "Provenance" in schema["$defs"]
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        report.model_validate({"more": 1})


def test_fp32_peak_by_threads_and_mask():
    limits = samples.limits()
    assert limits.fp32_peak(1) == 200.0
    assert limits.fp32_peak(2) == 380.0
    assert limits.fp32_peak(1, "avx2") == 100.0
    assert limits.fp32_peak(1, "baseline") == 40.0


def test_fp32_peak_between_one_core_and_all_counts_cores():
    many = samples.limits().model_copy(update={"cpus": 8})
    assert many.fp32_peak(4) == 800.0
    assert many.fp32_peak(8) == 380.0


def test_best_of_two_measurements():
    best = samples.limits().best(samples.limits(scale=1.5))
    assert best.fp32_peak(1) == 300.0
    assert best.fp32_peak(2) == 380.0


def test_peak_shares_leave_reduced_precision_out():
    given = samples.case("Small", 1, packhorse=1e-5, **{"openvino-bf16": 1e-5})
    ours, reduced = with_peak_shares(given, samples.limits(), None).latencies
    # 1e6 operations in 10 µs are 100 GFLOP/s, half of the 200 of one core.
    assert ours.peak_share == pytest.approx(0.5)
    assert reduced.peak_share is None

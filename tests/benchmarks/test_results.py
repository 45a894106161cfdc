import json

import pydantic
import pytest

from benchmarks.comparison import with_peak_shares
from benchmarks.results import PeersReport, ShapesReport, StartupReport, Visit
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


def test_best_of_two_measurements():
    best = samples.limits().best(samples.limits(scale=1.5))
    assert [(peak.core, peak.all_cores) for peak in best.peaks[:3]] == [
        (60.0, 76.0),
        (150.0, 190.0),
        (300.0, 380.0),
    ]


def visited(threads, *visits, engine="packhorse"):
    """A case of 0.001 GFLOP with one engine's visits: seconds, probe before, probe after."""
    case = samples.case("Small", threads, **{engine: min(seconds for seconds, *_ in visits)})
    found = [Visit(seconds=s, before=b, after=a) for s, b, a in visits]
    row = case.latencies[0].model_copy(update={"visits": found})
    return case.model_copy(update={"latencies": [row]})


def test_peak_shares_are_of_the_speed_around_each_visit():
    # 100 GFLOP/s at a peak of 190 to 200, 80 at 200; the slow visits would have 100 of 110.
    visits = (1e-5, 190.0, 200.0), (1.25e-5, 200.0, 200.0), (1e-5, 110.0, 110.0)
    # A visit that begins slow and ends fast tells nothing of either speed.
    row = with_peak_shares([visited(1, *visits, (1e-5, 100.0, 200.0))])[0].latencies[0]
    assert row.peak_share == pytest.approx(0.45)
    assert row.best_share == pytest.approx(0.5)


def test_full_speed_is_that_of_the_run_on_as_many_threads():
    cases = [
        visited(1, (1e-5, 200.0, 200.0)),
        visited(1, (1e-5, 125.0, 125.0)),
        visited(2, (1e-5, 250.0, 250.0)),
    ]
    # A visit that began at full speed and ended slow does not count beside one that kept it.
    cases.append(visited(2, (1e-5, 400.0, 250.0), (5e-6, 390.0, 400.0)))
    shares = [case.latencies[0].peak_share for case in with_peak_shares(cases)]
    assert shares == pytest.approx([0.5, 0.8, 0.4, 0.5]), "where none is at full speed, all count"


def test_peak_shares_leave_reduced_precision_out():
    row = with_peak_shares([visited(1, (1e-5, 200.0, 200.0), engine="openvino-bf16")])[0]
    assert row.latencies[0].peak_share is None


def test_peak_shares_without_probes():
    assert with_peak_shares(samples.report().cases)[0].latencies[0].peak_share is None

import pytest

from benchmarks.summary import (
    geometric_mean,
    means,
    scaling,
    speedup,
    steady_scaling,
    steady_speedup,
)
from tests.benchmarks import samples


def test_geometric_mean():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None


def test_speedup_is_over_the_faster_peer():
    case = samples.case("Small", 1, packhorse=1.0, onnxruntime=3.0, openvino=2.0)
    assert speedup(case) == 2.0


def test_reduced_precision_is_no_peer():
    seconds = {"packhorse": 1.0, "onnxruntime": 3.0, "openvino-bf16": 0.5}
    assert speedup(samples.case("Small", 1, **seconds)) == 3.0


def test_a_wrong_answer_earns_no_speedup():
    case = samples.case("Small", 1, failure="outputs differ", packhorse=1.0, onnxruntime=3.0)
    assert speedup(case) is None
    assert means([case])[0].over_peer["onnxruntime"] is None


def test_scaling_compares_the_same_case_on_one_thread():
    cases = [
        samples.case("Small", 1, packhorse=1.0),
        samples.case("Small", 1, batch=8, packhorse=7.0),
        samples.case("Small", 2, packhorse=0.5),
    ]
    assert scaling(cases, cases[2], "packhorse") == 2.0
    assert scaling(cases, cases[2], "openvino") is None
    assert scaling(cases[1:], cases[2], "packhorse") is None


def test_scaling_at_one_speed_compares_shares_of_the_peak():
    one, two = (samples.case("Small", threads, packhorse=1.0) for threads in (1, 2))
    cases = [
        case.model_copy(update={"latencies": [row.model_copy(update={"peak_share": share})]})
        for case, share in ((one, 0.8), (two, 0.6))
        for row in case.latencies
    ]
    assert steady_scaling(cases, cases[1], "packhorse") == pytest.approx(1.5)
    assert steady_scaling([one, two], two, "packhorse") is None


def test_means_by_group():
    cases = [
        samples.case("Small", 1, packhorse=1.0, onnxruntime=2.0, openvino=9.0),
        samples.case("Small", 2, batch=8, packhorse=1.0, onnxruntime=8.0, openvino=16.0),
    ]
    groups = {mean.label: mean for mean in means(cases)}
    assert list(groups) == ["all cases", "threads 1", "threads 2", "batch 1", "Small"]
    whole = groups["all cases"]
    assert whole.cases == 2
    assert whole.over_fastest == pytest.approx(4.0)
    assert whole.over_peer["openvino"] == pytest.approx(12.0)
    assert whole.worst == 2.0
    assert groups["batch 1"].over_fastest == 2.0


def test_a_gain_at_one_speed_follows_shares_of_the_peak():
    uneven = samples.case("CNN", 1, packhorse=1.0, onnxruntime=1.0, openvino=3.0)
    shares = {"packhorse": 0.6, "onnxruntime": 0.5, "openvino": 0.2}
    rows = [row.model_copy(update={"peak_share": shares[row.engine]}) for row in uneven.latencies]
    shared = uneven.model_copy(update={"latencies": rows})
    assert speedup(shared) == 1.0
    assert steady_speedup(shared) == pytest.approx(1.2)
    assert steady_speedup(uneven) is None
    wrong = [row.model_copy(update={"failure": "differs"}) for row in rows]
    assert steady_speedup(uneven.model_copy(update={"latencies": wrong})) is None

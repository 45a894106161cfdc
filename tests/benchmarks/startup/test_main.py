import sys

import pytest

from benchmarks.models import MODELS
from benchmarks.startup.__main__ import measure, start


def script(source):
    return [sys.executable, "-c", source]


def test_seconds_until_the_answer_not_until_the_end():
    source = "import time; print('noise'); print('answered', time.monotonic_ns()); time.sleep(0.5)"
    assert 0.0 < start(script(source), timeout=20) < 0.45


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('no model')", "ValueError: no model"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("pass", "exit status 0"),
        ("import time; time.sleep(30)", "no answer within 1 s"),
    ],
)
def test_a_start_without_an_answer_says_why(source, reason):
    with pytest.raises(RuntimeError, match=reason):
        start(script(source), timeout=1)


@pytest.mark.slow
def test_every_scenario_is_started_in_turns(tmp_path):
    pytest.importorskip("openvino", reason="needs the extra bench")
    told = []
    results = measure(MODELS["mlp"], tmp_path, 1, 1, 60, told.append)
    assert [result.scenario for result in results if result.scenario.startswith("openvino")] == [
        "openvino",
        "openvino, warm cache",
    ]
    peers = [result for result in results if not result.scenario.startswith("packhorse")]
    assert all(len(result.seconds) == 1 and result.failure is None for result in peers)
    assert len(told) >= 2 * len(peers)

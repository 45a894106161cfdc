import io

import pytest
from rich.console import Console

from benchmarks import tables
from tests.benchmarks import samples


@pytest.fixture
def out():
    return Console(width=200, file=io.StringIO())


def text(out):
    return out.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (2.5, "2.50 s"),
        (0.0124, "12.4 ms"),
        (0.25, "250 ms"),
        (3.21e-6, "3.21 µs"),
        (4e-8, "0.04 µs"),
        (1234.0, "1234 s"),
        (None, "-"),
    ],
)
def test_durations(seconds, shown):
    assert tables.duration(seconds) == shown


def test_sizes():
    assert tables.size(100) == "100 B"
    assert tables.size(1536) == "1.5 KiB"
    assert tables.size(-(3 << 20)) == "-3 MiB"
    assert tables.size(5 << 30) == "5 GiB"


def test_header_warns_of_a_machine_that_is_not_quiet(out):
    tables.show_provenance(out, samples.provenance())
    assert "not quiet" not in text(out)
    assert "Some CPU, 2 usable, avx2, fma" in text(out)
    tables.show_provenance(out, samples.provenance(quiet=False))
    assert "The machine is not quiet" in text(out)


def test_cases_show_ratios_and_scaling(out):
    tables.show_cases(out, samples.report().cases)
    lines = [line for line in text(out).splitlines() if "packhorse" in line]
    assert "2.00x" in lines[0]
    assert "1.67x" in lines[1]
    assert "1.50x" in lines[1]


def test_failed_and_wrong_engines_are_named_once(out):
    crashed = samples.case("Small", 1, onnxruntime=1.0)
    row = crashed.latencies[0].model_copy(
        update={"engine": "packhorse", "minimum": None, "failure": "no [kernel] for X"}
    )
    crashed = crashed.model_copy(update={"latencies": [row, *crashed.latencies]})
    wrong = samples.case("Large", 2, failure="outputs differ", packhorse=1.0, onnxruntime=1.0)
    cases = [crashed, crashed, crashed, crashed, wrong]
    tables.show_cases(out, cases)
    assert "failed" in text(out)
    assert "0 wrong" in text(out)
    tables.show_failures(out, cases)
    places = "Small b1 (1), Small b1 (1), Small b1 (1) and 1 more"
    assert f"packhorse at {places}: no [kernel] for X" in text(out)
    assert "packhorse at Large b1 (2): outputs differ" in text(out)


def test_drift_marks_the_cases_that_met_a_slow_machine(out):
    steady = samples.report().cases
    tables.show_drift(out, steady)
    assert "was steady" in text(out)
    slow = [*steady, steady[0].model_copy(update={"core_speed": 100.0})]
    tables.show_drift(out, slow)
    assert "in 1 of 4 cases" in text(out)
    assert "worst case 50 %" in text(out)
    tables.show_cases(out, slow)
    assert text(out).count("1!") == 1


def test_means_and_loadings(out):
    tables.show_means(out, samples.report().cases)
    assert "1.73x" in text(out)
    tables.show_loadings(out, samples.report().loadings)
    assert "4.00x" in text(out)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.equality import compare


def array(*values, dtype=np.float32):
    return np.array(values, dtype)


def test_the_rule_scales_with_the_largest_reference_value():
    reference = {"y": array(0.0, 100.0)}
    # Allowed: 1e-4 * 100 + 1e-5.
    assert compare(reference, {"y": array(0.01, 100.0)}).equal
    worse = compare(reference, {"y": array(0.011, 100.0)})
    assert not worse.equal
    assert worse.max_error == pytest.approx(0.011)
    assert worse.tolerance_used == pytest.approx(0.011 / 0.01001)


@given(st.floats(-1024, 1024, width=32), st.floats(-0.0625, 0.0625, width=32))
def test_a_single_value(value, difference):
    wanted, got = array(value), array(value + difference)
    error = abs(float(got[0]) - float(wanted[0]))
    used = compare({"y": wanted}, {"y": got}).tolerance_used
    assert used == pytest.approx(error / (1e-4 * abs(value) + 1e-5), rel=1e-3, abs=1e-6)


def test_the_worst_tensor_decides():
    reference = {"a": array(1.0), "b": array(1000.0)}
    agreement = compare(reference, {"a": array(1.001), "b": array(1000.05)})
    assert agreement.max_error == pytest.approx(0.05, rel=1e-2)
    assert agreement.tolerance_used == pytest.approx(0.001 / 1.1e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        ({}, "output 'y' is missing"),
        ({"y": array(1.0)}, r"shape \(1,\), expected \(2,\)"),
        ({"y": array(1.0, 2.0, dtype=np.float64)}, "type float64, expected float32"),
        ({"y": array(1.0, np.nan)}, "not finite where the reference is"),
        ({"y": array(1.0, np.inf)}, "not finite where the reference is"),
    ],
)
def test_structural_differences_are_named(got, problem):
    agreement = compare({"y": array(1.0, 2.0)}, got)
    assert not agreement.equal
    assert agreement.problem is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(agreement.problem)


def test_integers_and_strings_are_exact():
    wanted = {"i": array(1, 2, dtype=np.int64), "s": np.array(["a", "b"], object)}
    assert compare(wanted, wanted).equal
    assert compare(wanted, wanted | {"i": array(1, 3, dtype=np.int64)}).problem == (
        "output 'i' differs in 1 elements"
    )
    assert not compare(wanted, wanted | {"s": np.array(["a", "c"], object)}).equal


def test_shared_infinities_and_empty_tensors_are_equal():
    assert compare({"y": array(np.inf, 1.0)}, {"y": array(np.inf, 1.0)}).equal
    assert compare({"y": array(np.nan, 1.0)}, {"y": array(np.nan, 1.0)}).equal
    assert not compare({"y": array(np.inf, 1.0)}, {"y": array(-np.inf, 1.0)}).equal
    assert compare({"y": array()}, {"y": array()}).equal

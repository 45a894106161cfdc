"""The equality rule itself: what it lets pass and what it does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.real_input.comparison import Tally, compared, used_allowance
from examples.real_input.float64 import float64_run

REFERENCE = np.array([[1.0, -50.0], [0.0, 3.0]], np.float32)


def test_same_tensor_uses_nothing() -> None:
    assert used_allowance(REFERENCE, REFERENCE) == 0


@pytest.mark.parametrize(("offset", "equal"), [(0.004, True), (0.0051, False)])
def test_allowance_is_relative_to_the_largest(offset: float, equal: bool) -> None:
    found = REFERENCE.copy()
    found[1, 0] += offset
    assert (used_allowance(found, REFERENCE) <= 1) == equal


@pytest.mark.parametrize(("offset", "equal"), [(9e-6, True), (1.1e-5, False)])
def test_allowance_of_zeros_is_absolute(offset: float, equal: bool) -> None:
    zeros = np.zeros(3, np.float32)
    assert (used_allowance(zeros + np.float32(offset), zeros) <= 1) == equal


@pytest.mark.parametrize(
    "found",
    [
        REFERENCE[:1],
        REFERENCE.astype(np.float64),
        np.where(REFERENCE == 3, np.nan, REFERENCE),
        np.where(REFERENCE == 3, np.inf, REFERENCE),
    ],
)
def test_other_shapes_types_and_numbers_that_are_none(found: np.ndarray) -> None:
    assert used_allowance(found, REFERENCE) == float("inf")


def test_nan_equals_nan_only() -> None:
    reference = np.array([np.nan, np.inf, 1.0], np.float32)
    assert used_allowance(reference.copy(), reference) == 0
    assert used_allowance(np.array([0, np.inf, 1], np.float32), reference) == float("inf")
    assert used_allowance(np.array([np.nan, -np.inf, 1], np.float32), reference) == float("inf")


@pytest.mark.parametrize("values", [[1, 2], [True, False], ["a", "b"]])
def test_everything_else_is_exact(values: list[object]) -> None:
    kind = object if isinstance(values[0], str) else None
    reference = np.array(values, kind)
    assert used_allowance(reference.copy(), reference) == 0
    assert used_allowance(reference[::-1].copy(), reference) == float("inf")


def test_tally_keeps_the_worst_and_needs_a_run() -> None:
    tally = Tally()
    assert not tally.equal
    run = compared(lambda x: {"y": x["x"] * 2}, lambda x: {"y": x["x"] + x["x"]}, tally)
    assert run({"x": REFERENCE})["y"][0, 0] == 2
    assert tally.equal
    wrong = compared(lambda x: {"y": x["x"] * 3}, lambda x: {"y": x["x"] + x["x"]}, tally)
    wrong({"x": REFERENCE[:1]})
    assert not tally.equal
    assert (tally.runs, len(tally.shapes)) == (2, 2)
    assert len(tally.unequal) == 1
    missing = compared(lambda x: {}, lambda x: {"y": x["x"]}, Tally())
    assert missing({"x": REFERENCE}) == {}


@pytest.mark.parametrize(("ours", "theirs", "equal"), [(1.01, 1.02, True), (1.02, 1.01, False)])
def test_float64_decides_who_is_nearer(ours: float, theirs: float, equal: bool) -> None:
    one = np.ones(2, np.float32)
    tally = Tally()
    exact = {"y": np.ones(2)}
    tally.compare({"x": one}, {"y": one * ours}, {"y": one * theirs}, lambda inputs: exact)
    assert tally.equal == equal
    assert (tally.decided, tally.runs) == (1, 1)
    assert tally.worst > 50
    undecided = Tally()
    undecided.compare({"x": one}, {"y": one}, {"y": one}, lambda inputs: {})
    assert undecided.equal
    assert undecided.decided == 0


def test_float64_run_computes_in_float64(tmp_path: Path) -> None:
    thirds = numpy_helper.from_array(np.full(4, 1 / 3, np.float32), "thirds")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["wide", "thirds"], ["y"]),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [thirds],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    found = float64_run(tmp_path / "model.onnx")({"x": np.arange(4)})["y"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.arange(4) / np.float64(np.float32(1 / 3)))

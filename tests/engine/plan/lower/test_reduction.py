"""Models of one reduction against onnxruntime, over axes, sizes, types and operator sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.harness import ISAS
from tests.engine.lowered import lower_node
from tests.engine.single import Single

OPERATORS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
]


def data(*shape: int, dtype: Any = np.float32) -> Any:
    values = np.random.default_rng(sum(shape)).random(shape) + 0.5
    return (values * (1 if np.dtype(dtype).kind == "f" else 5)).astype(dtype)


@pytest.mark.parametrize("op", OPERATORS)
def test_operators_over_axes_and_sizes(op: str) -> None:
    for axes, keepdims in (((1,), 1), ((-1,), 0), ((0, 2), 1), ((1, 3), 0), ((0, 1, 2, 3), 0)):
        inputs = {"x": data(2, 3, 4, 5), "axes": np.array(axes, np.int64)}
        model = Single(op, inputs, constants=["axes"], keepdims=keepdims)
        for shape in ((2, 3, 4, 5), (1, 1, 1, 1), (2, 9, 3, 40)):
            model.check(x=data(*shape))


@pytest.mark.parametrize("op", OPERATORS)
def test_axes_as_attribute_and_by_default(op: str) -> None:
    Single(op, {"x": data(2, 3, 4)}, opset=11, axes=[-2]).check(x=data(3, 5, 7))
    Single(op, {"x": data(2, 3, 4)}, opset=11).check(x=data(3, 5, 7))


@pytest.mark.parametrize("op", OPERATORS)
def test_empty_axes_leave_the_axes(op: str) -> None:
    model = Single(op, {"x": data(2, 3)}, noop_with_empty_axes=1)
    model.check(x=data(4, 21))


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"])
def test_other_types(op: str, dtype: str) -> None:
    x = data(2, 6, 5, dtype=dtype)
    Single(op, {"x": x, "axes": np.array([1])}, constants=["axes"]).check(x=x)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(drawn=st.data())
def test_any_axes_by_numpy(isa: str, drawn: st.DataObject) -> None:
    shape = drawn.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    axes = drawn.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    x = data(*shape)
    expected = x.sum(tuple(axes), keepdims=True)
    arrays = [x, np.array(sorted(axes), np.int64)]
    pieces = drawn.draw(st.integers(1, 3))
    results, status = lower_node(isa, "ReduceSum", arrays, [expected], known=[1], pieces=pieces)
    assert status == 0
    np.testing.assert_allclose(results[0], expected, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((2, 3, 150, 300), (2, 3)), ((1, 90_000, 6), (1,)), ((1, 90_000, 6), (0, 1, 2))],
)
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceL2", "ReduceMax"])
def test_long_reductions_are_split_by_shape_alone(
    isa: str, shape: tuple[int, ...], axes: tuple[int, ...], op: str
) -> None:
    x = data(*shape)
    wide = x.astype(np.float64)
    expected = {
        "ReduceMean": lambda: wide.mean(axes, keepdims=True),
        "ReduceL2": lambda: np.sqrt(np.square(wide).sum(axes, keepdims=True)),
        "ReduceMax": lambda: wide.max(axes, keepdims=True),
    }[op]().astype(np.float32)
    arrays = [x, np.array(axes, np.int64)]
    whole, _ = lower_node(isa, op, arrays, [expected], known=[1])
    split, _ = lower_node(isa, op, arrays, [expected], known=[1], pieces=3)
    np.testing.assert_allclose(whole[0], expected, rtol=2e-6)
    assert whole[0].tobytes() == split[0].tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_images_alone_give_the_same_bytes(isa: str) -> None:
    axes = np.array([2, 3])
    model = Single("ReduceMean", {"x": data(1, 1, 1, 1), "axes": axes}, constants=["axes"], isa=isa)
    x = data(3, 2, 150, 130)
    whole = model.run(x=x)[0]
    assert whole[1:2].tobytes() == model.run(x=x[1:2])[0].tobytes()


@pytest.mark.parametrize("axes", [[0, 1], [1]])
def test_threads_do_not_change_bytes(axes: list[int]) -> None:
    x = data(1, 90_000, 6)
    results = []
    for threads in (1, 2):
        inputs = {"x": x, "axes": np.array(axes)}
        model = Single("ReduceMean", inputs, constants=["axes"], symbolic=False, threads=threads)
        results.append(model.run(x=x)[0].tobytes())
    assert results[0] == results[1]


def test_axes_of_known_number_that_are_computed_are_native() -> None:
    x, axes = data(2, 3), np.array([1])
    model = Single("ReduceSum", {"x": x, "axes": axes})
    assert model.native
    for axis in (1, 0, -2):
        (found,) = model.run(x=x, axes=np.array([axis]))
        np.testing.assert_allclose(found, x.sum(axis, keepdims=True), rtol=1e-6)

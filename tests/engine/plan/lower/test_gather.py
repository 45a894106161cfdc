from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import engine
from engine.codegen.abi import Status
from tests.engine.harness import ISAS
from tests.engine.lowered import Array, check_node, lower_node
from tests.engine.models import serialise, tensor
from tests.engine.plan.lower.test_views import numbered

ISA = ISAS[-1]
INDEX_TYPES = st.sampled_from([np.int32, np.int64])
DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.int16, np.bool_, np.float16])


def drawn_indices(data: st.DataObject, shape: Any, limit: int) -> Array:
    size = int(np.prod(shape))
    values = st.lists(st.integers(-limit, limit - 1), min_size=size, max_size=size)
    return np.array(data.draw(values)).reshape(shape).astype(data.draw(INDEX_TYPES))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_gather(isa: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    shape[-1] = data.draw(st.integers(1, 90))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = numbered(shape, data.draw(DTYPES))
    picked = data.draw(st.lists(st.integers(0, 4), max_size=2))
    indices = drawn_indices(data, picked, shape[axis])
    pieces = data.draw(st.integers(1, 3))
    check_node(isa, "Gather", [x, indices], axis=axis, pieces=pieces)


def test_rows_along_an_axis_of_one_that_was_moved() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Gather", ["t", "i"], ["y"], axis=2),
    ]
    inputs = [tensor("x", [2, 1, 4, 8]), tensor("i", [1], TensorProto.INT64)]
    x = np.arange(64, dtype=np.float32).reshape(2, 1, 4, 8)
    model = serialise(nodes, inputs, ["y"], {})
    found = engine.load(model, threads=1).run({"x": x, "i": np.zeros(1, np.int64)})["y"]
    np.testing.assert_array_equal(found, x.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("index", [0, 2, -1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_of_a_known_index_is_a_window(index: int, axis: int) -> None:
    check_node(ISA, "Gather", [numbered((3, 4, 5)), np.array(index)], known=(1,), axis=axis)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_gather_elements(isa: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    picked = [data.draw(st.integers(0, n)) for n in shape]
    picked[axis] = data.draw(st.integers(0, 300 if len(shape) < 2 else 9))
    indices = drawn_indices(data, picked, shape[axis])
    x = numbered(shape, data.draw(DTYPES))
    expected = np.take_along_axis(x[_corner(picked, axis)], indices, axis)
    results, status = lower_node(
        isa, "GatherElements", [x, indices], [expected], pieces=2, axis=axis
    )
    assert status == 0
    np.testing.assert_array_equal(results[0], expected)


def _corner(shape: list[int], axis: int) -> tuple[slice, ...]:
    slices = [slice(0, n) for n in shape]
    slices[axis] = slice(None)
    return tuple(slices)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_gather_nd(isa: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    batch = data.draw(st.integers(0, len(shape) - 1))
    depth = data.draw(st.integers(1, len(shape) - batch))
    picked = shape[:batch] + data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    limits = shape[batch : batch + depth]
    columns = [drawn_indices(data, picked, limit).astype(np.int64) for limit in limits]
    indices = np.stack(columns, -1)
    check_node(isa, "GatherND", [numbered(shape), indices], pieces=2, batch_dims=batch)


@pytest.mark.parametrize("bad", [4, -5, 2**40])
@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
def test_index_out_of_range(op: str, bad: int) -> None:
    x = numbered((4,))
    indices = np.array([[1], [bad]]) if op == "GatherND" else np.array([1, bad])
    _, status = lower_node(ISA, op, [x, indices], [x[:2]])
    assert status == Status.INDEX_OUT_OF_RANGE


def test_gather_from_nothing() -> None:
    x, none = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    check_node(ISA, "Gather", [x, none])
    _, status = lower_node(ISA, "Gather", [x, np.array([0])], [np.zeros((1, 3), np.float32)])
    assert status == Status.INDEX_OUT_OF_RANGE

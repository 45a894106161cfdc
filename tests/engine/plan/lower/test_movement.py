from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.dims import Dim, symbol
from engine.graph.ir import Node, Value
from engine.plan.lowering import lowering_of
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench, check_node, lower_node
from tests.engine.plan.lower.test_views import SHAPES, ints, numbered

ISA = ISAS[-1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int64])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_concat(isa: str, dtype: Any, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays: list[Any] = []
    for _ in range(data.draw(st.integers(1, 4))):
        shape[axis] = data.draw(st.integers(0, 5))
        arrays.append(numbered(shape, dtype))
    check_node(isa, "Concat", arrays, axis=axis)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_tile(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    repeats = [data.draw(st.integers(0, 3)) for _ in shape]
    check_node(ISA, "Tile", [numbered(shape), ints(*repeats)], known=(1,))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("width", [1, 5, 40])
def test_depth_and_space(isa: str, mode: str, block: int, width: int) -> None:
    x = numbered((2, 2 * block * block, 3, width))
    check_node(isa, "DepthToSpace", [x], blocksize=block, mode=mode)
    y = numbered((2, 3, 2 * block, width * block))
    check_node(isa, "SpaceToDepth", [y], blocksize=block)


def test_space_to_depth_by_columns() -> None:
    x = numbered((2, 3, 4, 6))
    blocks = x.reshape(2, 3, 2, 2, 3, 2)
    expected = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(2, 12, 2, 3)
    results, _ = lower_node(ISA, "SpaceToDepth", [x], [expected], blocksize=2, mode="CRD")
    np.testing.assert_array_equal(results[0], expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 700), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float16, np.int64])
def test_constant_of_shape(shape: tuple[int, ...], dtype: Any) -> None:
    value = np.array([3], dtype)
    expected = np.full(shape, 3, dtype)
    results, _ = lower_node(
        ISA, "ConstantOfShape", [ints(*shape)], [expected], known=(0,), value=value
    )
    np.testing.assert_array_equal(results[0], expected)


def test_range_between_sizes() -> None:
    bench = Bench(ISA)
    n = symbol("n")
    bench.sizes["n"] = 2500
    inputs = [
        Value(name, np.dtype(np.int64), (), dims=(dim,))
        for name, dim in [("start", Dim.of(2)), ("limit", n), ("delta", Dim.of(1))]
    ]
    output = Value("y", np.dtype(np.int64), (n - 2,))
    node = Node("Range", list(inputs), [output])
    lowering_of(node)(node, bench.low)
    bench.execute(3)
    np.testing.assert_array_equal(bench.array(bench.low.read(output)), np.arange(2, 2500))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("rank", [0, 1, 8, 19])
def test_known_values_are_written_when_read(dtype: Any, rank: int) -> None:
    bench = Bench(ISA)
    n = symbol("n")
    bench.sizes["n"] = 7
    dims = tuple(n * i - 3 for i in range(max(rank, 1)))
    shape = (Dim.of(rank),) if rank else ()
    value = Value("shape", np.dtype(dtype), shape, dims=dims)
    node = Node("Shape", [Value("x")], [value])
    lowering_of(node)(node, bench.low)
    assert not bench.low.calls
    tensor = bench.low.read(value)
    bench.execute()
    expected = np.array([7 * i - 3 for i in range(max(rank, 1))], dtype)
    np.testing.assert_array_equal(bench.array(tensor), expected if rank else expected[0])

"""Operands of element-wise operators that broadcast, by axes known at bind alone, or transposed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.dims import broadcast, symbol
from engine.graph.ir import Node, Value
from engine.plan.lowering import lowering_of
from engine.plan.tensor import row_major
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench
from tests.engine.plan.lower.element_values import (
    OPSET,
    RNG,
    ours,
)


@st.composite
def broadcasting(draw: Any) -> list[tuple[int, ...]]:
    full = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 17, 40]), max_size=5))
    shapes = []
    for _ in range(draw(st.integers(2, 3))):
        kept = full[draw(st.integers(0, len(full))) :]
        shapes.append(tuple(1 if draw(st.booleans()) else n for n in kept))
    return shapes


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(shapes=broadcasting(), seed=st.integers(0, 1000))
def test_any_broadcast(isa: str, shapes: list[tuple[int, ...]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    operands = [generator.standard_normal(s).astype(np.float32) for s in shapes]
    expected = operands[0]
    for operand in operands[1:]:
        expected = expected + operand
    whole = ours(isa, "Sum", operands, {}, np.float32)
    np.testing.assert_array_equal(whole, expected)
    assert ours(isa, "Sum", operands, {}, np.float32, pieces=3).tobytes() == whole.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 3, 7, 33]), min_size=1, max_size=4),
    ones=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_axes_that_may_or_may_not_be_broadcast(
    isa: str, lengths: list[int], ones: list[bool]
) -> None:
    """Every axis of both inputs has a symbol of its own: strides are decided at bind."""
    bench = Bench(isa)
    shapes = [tuple(lengths), tuple(1 if one else n for one, n in zip(ones, lengths, strict=False))]
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in shapes]
    values: list[Value | None] = []
    for i, array in enumerate(arrays):
        value = bench.value(array, f"x{i}")
        dims = []
        for axis, length in enumerate(array.shape):
            bench.sizes[f"s{i}_{axis}"] = length
            dims.append(symbol(f"s{i}_{axis}"))
        tensor = bench.low.tensors[id(value)]
        value.shape = tuple(dims)
        bench.low.tensors[id(value)] = type(tensor)(
            tensor.dtype, value.shape, row_major(dims), tensor.buffer
        )
        values.append(value)
    first, second = (v.shape for v in values if v is not None)
    assert first is not None
    assert second is not None
    shape = tuple(broadcast(a, b) for a, b in zip(first, second, strict=True))
    out = Value("y", np.dtype(np.float32), shape)
    node = Node("Add", values, [out], {}, "", OPSET)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute() == 0
    np.testing.assert_array_equal(bench.array(bench.low.tensors[id(out)]), arrays[0] + arrays[1])


@pytest.mark.parametrize("isa", ISAS)
def test_transposed_input(isa: str) -> None:
    bench = Bench(isa)
    x, z = (RNG.standard_normal(s).astype(np.float32) for s in ((37, 21), (21, 37)))
    left, right = bench.input(x, "x").permute((1, 0)), bench.input(z, "z")
    values: list[Value | None] = []
    for name, tensor in (("a", left), ("b", right)):
        value = Value(name, tensor.dtype, left.shape)
        bench.low.tensors[id(value)] = tensor
        values.append(value)
    out = Value("y", np.dtype(np.float32), left.shape)
    bench.sizes.update({"z0": 21, "z1": 37})
    right_tensor = bench.low.tensors[id(values[1])]
    bench.low.tensors[id(values[1])] = type(right_tensor)(
        right_tensor.dtype, left.shape, row_major(left.shape), right_tensor.buffer
    )
    node = Node("Mul", values, [out], {}, "", OPSET)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute() == 0
    np.testing.assert_array_equal(bench.array(bench.low.tensors[id(out)]), x.T * z)

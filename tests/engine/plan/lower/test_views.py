from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.graph.dims import Dim, symbol
from engine.plan.lower.views import reshaped
from engine.plan.lowering import NoKernel
from engine.plan.tensor import Tensor
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench, check_node, lower_node

ISA = ISAS[-1]
SHAPES = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def numbered(shape: Any, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int16, np.bool_])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_transpose(dtype: Any, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    axes = data.draw(st.permutations(range(len(shape))))
    check_node(ISA, "Transpose", [numbered(shape, dtype)], perm=axes)


def test_transpose_without_axes_reverses() -> None:
    check_node(ISA, "Transpose", [numbered((2, 3, 5))])


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_slice(isa: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    bound = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)]))
    starts = [data.draw(bound) for _ in axes]
    ends = [data.draw(bound) for _ in axes]
    steps = [data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in axes]
    axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    arrays = [numbered(shape), ints(*starts), ints(*ends), ints(*axes), ints(*steps)]
    check_node(isa, "Slice", list(arrays), known=(1, 2, 3, 4))


def test_slice_of_the_first_version() -> None:
    check_node(
        ISA, "Slice", [numbered((4, 5))], opset=9, starts=[1, -3], ends=[3, 100], axes=[0, 1]
    )


def test_slice_with_starts_of_a_run_falls_back() -> None:
    x, one = numbered((4,)), ints(1)
    with pytest.raises(NoKernel, match="starts"):
        lower_node(ISA, "Slice", [x, one, ints(3)], [x[1:3]], known=(2,))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split(axis: int) -> None:
    x = numbered((6, 6, 6))
    check_node(ISA, "Split", [x, ints(1, 3, 2)], known=(1,), outputs=3, axis=axis)
    check_node(ISA, "Split", [x], opset=11, outputs=2, split=[2, 4], axis=axis)


@pytest.mark.parametrize("shape", [(2, 1, 3, 1), (5, 2, 4, 3, 1), (1, 1, 3, 6), (2, 0, 3, 1)])
def test_expand(shape: tuple[int, ...]) -> None:
    check_node(ISA, "Expand", [numbered((1, 3, 1)), ints(*shape)], known=(1,))


@pytest.mark.parametrize(
    ("op", "second", "attributes"),
    [
        ("Reshape", (3, -1), {}),
        ("Squeeze", (0,), {}),
        ("Unsqueeze", (0, 3), {}),
        ("Flatten", None, {"axis": 2}),
    ],
)
def test_same_elements(op: str, second: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    arrays: list[Any] = [numbered((1, 4, 3, 2))]
    if second is not None:
        arrays.append(ints(*second))
    check_node(ISA, op, arrays, known=(1,), **attributes)


def strided(bench: Bench, shape: tuple[Dim, ...], start: int = 0) -> Tensor:
    """Window with gaps along axis 1."""
    n, c, *rest = shape
    whole = bench.low.temp(np.float32, (n, c + 2, *rest))
    return whole.window(1, Dim.of(start), c)


def test_reshape_of_a_window_stays_a_window_where_groups_are_dense() -> None:
    bench = Bench(ISA)
    n, c = symbol("n"), symbol("c")
    view = strided(bench, (n, c, Dim.of(4), Dim.of(6)))
    merged = reshaped(view, (n, Dim.of(1), c * 24))
    assert merged is not None
    assert merged.strides[0] == (c + 2) * 24
    assert merged.strides[2] == 1
    split = reshaped(view, (n, c, Dim.of(2), Dim.of(12)))
    assert split is not None
    assert split.strides == (c * 24 + 48, Dim.of(24), Dim.of(12), Dim.of(1))
    assert reshaped(view, (n * c, Dim.of(24))) is None


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_reshape_of_windows(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4))
    factors = [f for n in shape for f in ((2, 2) if n == 4 else (n,))]
    target: list[int] = []
    joined = data.draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
    for factor, join in zip(factors, joined, strict=True):
        if target and join:
            target[-1] *= factor
        else:
            target.append(factor)
    bench = Bench(ISA, static=True)
    x = numbered([n + 1 for n in shape])
    tensor, window = bench.input(x, "x"), x
    for axis, length in enumerate(shape):
        tensor = tensor.window(axis, Dim.of(1), Dim.of(length))
        window = window.take(range(1, 1 + length), axis)
    view = reshaped(tensor, tuple(Dim.of(n) for n in target))
    if view is not None:
        np.testing.assert_array_equal(bench.array(view), window.reshape(target))


@pytest.mark.parametrize(("kind", "number"), [(np.int32, 6), (np.uint32, 12)])
def test_bit_cast_keeps_the_bytes(kind: Any, number: int) -> None:
    x = numbered((3, 4)) - 5
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("BitCast", ["x"], ["y"], to=number)],
        "bits",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 4])],
        [onnx.helper.make_empty_tensor_value_info("y")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=10
    )
    session = engine.load(model.SerializeToString(), threads=1)
    assert session.explain().fallback_count == 0
    np.testing.assert_array_equal(session.run({"x": x})["y"], x.view(kind))

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.target import select
from engine.graph.dims import Dim
from engine.kernels.transpose import tile_side
from engine.plan.lower.copies import emit_copy, emit_zero_halo
from engine.plan.tensor import Tensor
from tests.engine.harness import ISAS
from tests.engine.lowered import GARBAGE, Bench

DTYPES = [np.uint8, np.int16, np.float32, np.float64]


def numbered(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def copied(isa: str, source: Tensor, bench: Bench, pieces: int) -> np.ndarray[Any, Any]:
    target = bench.low.temp(source.dtype, source.shape)
    emit_copy(bench.low, source, target)
    assert bench.execute(pieces) == 0
    return bench.array(target)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("static", [False, True])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_permuted_copy(isa: str, dtype: Any, static: bool, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=3))
    shape = data.draw(st.permutations([*sizes, data.draw(st.integers(0, 3))]))
    axes = data.draw(st.permutations(range(len(shape))))
    x = numbered(tuple(shape), dtype)
    bench = Bench(isa, static)
    source = bench.input(x, "x").permute(axes)
    result = copied(isa, source, bench, data.draw(st.integers(1, 5)))
    np.testing.assert_array_equal(result, x.transpose(axes))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 3])
def test_long_transposition_and_rows(isa: str, dtype: Any, pieces: int) -> None:
    for shape, axes in [((2, 300, 530), (0, 2, 1)), ((9000, 3), (1, 0)), ((2, 40000), (0, 1))]:
        x = numbered(shape, dtype)
        bench = Bench(isa)
        source = bench.input(x, "x").permute(axes)
        expected = x.transpose(axes)
        np.testing.assert_array_equal(copied(isa, source, bench, pieces), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_window_copy(isa: str, dtype: Any, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    x = numbered(tuple(data.draw(st.integers(1, 9)) for _ in range(rank)), dtype)
    bench = Bench(isa)
    source, expected = bench.input(x, "x"), x
    for axis in range(rank):
        step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        start = data.draw(st.integers(0, x.shape[axis] - 1))
        room = x.shape[axis] - start if step > 0 else start + 1
        length = data.draw(st.integers(0, -(-room // abs(step))))
        source = source.window(axis, Dim.of(start), Dim.of(length), step)
        picks = start + step * np.arange(length)
        expected = expected.take(picks, axis)
    np.testing.assert_array_equal(copied(isa, source, bench, 2), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 5, 70, 600])
def test_broadcast_of_the_innermost_axis(isa: str, dtype: Any, length: int) -> None:
    x = numbered((7, 1), dtype)
    bench = Bench(isa)
    source = bench.input(x, "x")
    zero = Dim.of(0)
    wide = Tensor(source.dtype, (source.shape[0], Dim.of(length)), (Dim.of(1), zero), source.buffer)
    np.testing.assert_array_equal(copied(isa, wide, bench, 1), np.repeat(x, length, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pieces", [1, 4])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_zero_halo(isa: str, pieces: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    shape = tuple(data.draw(st.integers(0, 7)) for _ in range(rank))
    halo = tuple(data.draw(st.sampled_from([(0, 0), (1, 1), (0, 2), (3, 1)])) for _ in shape)
    bench = Bench(isa)
    window = bench.low.padded(np.float32, bench.dims(shape, "x"), halo)
    assert bench.execute(pieces) == 0
    whole = bench.bytes_of(window.buffer).view(np.float32)
    outer = tuple(n + sum(h) for n, h in zip(shape, halo, strict=True))
    expected = np.zeros(outer, np.float32)
    inside = tuple(slice(b, b + n) for n, (b, _) in zip(shape, halo, strict=True))
    expected[inside] = np.full(4, GARBAGE, np.uint8).view(np.float32)[0]
    np.testing.assert_array_equal(whole.reshape(outer), expected)


def test_zero_halo_leaves_the_window_to_its_producer() -> None:
    bench = Bench(ISAS[0], static=True)
    whole = bench.low.temp(np.uint8, (Dim.of(4),))
    emit_zero_halo(bench.low, whole, whole)
    bench.execute()
    assert (bench.array(whole) == GARBAGE).all()


@pytest.mark.parametrize("isa", ISAS)
def test_tiles_fit_a_vector(isa: str) -> None:
    target = select(isa)
    for itemsize in (1, 2, 4, 8):
        assert tile_side(target, itemsize) * itemsize <= target.vector_bytes

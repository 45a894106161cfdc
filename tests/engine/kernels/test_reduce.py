"""The reduction kernels against numpy in wide arithmetic, over shapes and instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select
from engine.kernels.reduce import strip_width
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]

OPERATIONS = {
    "sum": ("sum", "none"),
    "mean": ("sum", "mean"),
    "l1": ("abs", "none"),
    "l2": ("square", "sqrt"),
    "squares": ("square", "none"),
    "log": ("abs", "log"),
    "logsumexp": ("exp", "log"),
    "max": ("max", "none"),
    "min": ("min", "none"),
    "product": ("product", "none"),
}


def wide(op: str, x: Array, axes: tuple[int, ...]) -> Array:
    """The reduction in float64 (integers stay what they are)."""
    if x.dtype.kind == "f":
        x = x.astype(np.float64)
    result = {
        "sum": lambda: x.sum(axes),
        "mean": lambda: x.mean(axes),
        "l1": lambda: np.abs(x).sum(axes),
        "l2": lambda: np.sqrt(np.square(x).sum(axes)),
        "squares": lambda: np.square(x).sum(axes),
        "log": lambda: np.log(np.abs(x).sum(axes)),
        "logsumexp": lambda: np.logaddexp.reduce(x, axes),
        "max": lambda: x.max(axes),
        "min": lambda: x.min(axes),
        "product": lambda: x.prod(axes),
    }[op]()
    return np.asarray(result)


def reduce(op: str, x: Array, pattern: str, isa: str, *, block: int = 0, pieces: int = 1) -> Array:
    """Reduce axes 1 and 3 (rows) or 1 (columns) of a rank-4 array, kept axes 0 and 2."""
    step, finish = OPERATIONS[op]
    size = x.itemsize
    strides = [s // size for s in x.strides]
    words: dict[str, Any] = {"kept0": x.shape[0], "kept_stride0": strides[0]}
    words |= {"reduced0": x.shape[1], "reduced_stride0": strides[1]}
    if pattern == "rows":
        words |= {"kept1": x.shape[2], "kept_stride1": strides[2]}
        words |= {"length": x.shape[3], "count": x.shape[1] * x.shape[3]}
        run, shape = x.shape[3], (x.shape[0], x.shape[2])
        items = shape[0] * shape[1]
    else:
        x = x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])
        words |= {"length": x.shape[2], "count": x.shape[1]}
        run, shape = x.shape[1], (x.shape[0], x.shape[2])
        items = shape[0] * -(-shape[1] // strip_width(select(isa), size))
    if block:
        blocks = -(-run // block)
        words["block"] = block
        shape = (*shape, blocks) if pattern == "rows" else (shape[0], blocks, shape[1])
        items *= blocks
    spec = KernelSpec.of(
        "reduce",
        step=step,
        finish=finish,
        dtype=str(x.dtype),
        pattern=pattern,
        kept=2 if pattern == "rows" else 1,
        reduced=1,
        split=bool(block),
    )
    y = np.full(shape, 7, x.dtype)
    assert run_kernel(spec, isa, items, pieces=pieces, x=x, y=y, **words) == 0
    return y


def data(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    generator = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype)


shapes = st.tuples(
    st.integers(0, 3),
    st.integers(1, 70) | st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 300),
)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(ISAS), st.sampled_from(sorted(OPERATIONS)), st.booleans())
def test_floats_equal_wide_arithmetic(
    shape: tuple[int, ...], isa: str, op: str, rows: bool
) -> None:
    x = data(shape)
    if rows:
        result, expected = reduce(op, x, "rows", isa), wide(op, x, (1, 3))
    else:
        result = reduce(op, x, "columns", isa)
        expected = wide(op, x, (1,)).reshape(result.shape)
    np.testing.assert_allclose(result, expected, rtol=3e-6, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", ["rows", "columns"])
@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "int8", "uint8", "bool"])
def test_other_types(isa: str, pattern: str, dtype: str) -> None:
    x = data((2, 5, 3, 77), dtype)
    small = dtype in ("int8", "uint8", "bool")
    for op in ("max", "min") if small else ("sum", "l1", "l2", "squares", "max", "min", "product"):
        expected = wide(op, x, (1, 3) if pattern == "rows" else (1,))
        result = reduce(op, x, pattern, isa)
        np.testing.assert_allclose(result, expected.reshape(result.shape).astype(dtype), rtol=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", ["rows", "columns"])
def test_rows_do_not_depend_on_the_split(isa: str, pattern: str) -> None:
    x = data((4, 67, 2, 143))
    for op in ("mean", "logsumexp"):
        whole = reduce(op, x, pattern, isa)
        assert whole.tobytes() == reduce(op, x, pattern, isa, pieces=5).tobytes()
        assert whole[2:3].tobytes() == reduce(op, x[2:3], pattern, isa).tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", ["rows", "columns"])
def test_blocks_are_partial_results(isa: str, pattern: str) -> None:
    x = data((2, 11, 3, 130))
    result = reduce("sum", x, pattern, isa, block=4)
    if pattern == "rows":
        padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2))).reshape(2, 11, 3, 33, 4)
        expected = padded.sum((1, 4))
    else:
        expected = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))).reshape(2, 3, 4, -1).sum(2)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_long_sums_stay_accurate(isa: str) -> None:
    ones = np.full((1, 1, 1, 300_001), 0.1, np.float32)
    assert abs(reduce("mean", ones, "rows", isa)[0, 0] / np.float32(0.1) - 1) < 1e-5
    tall = np.full((1, 300_001, 1, 3), 0.1, np.float32)
    assert abs(reduce("mean", tall, "columns", isa)[0, 0] / np.float32(0.1) - 1) < 1e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", ["rows", "columns"])
def test_infinities_in_logsumexp(isa: str, pattern: str) -> None:
    x = data((3, 2, 1, 20))
    x[0], x[1, 0, 0, 3] = -np.inf, np.inf
    result = reduce("logsumexp", x, pattern, isa)
    expected = wide("logsumexp", x, (1, 3) if pattern == "rows" else (1,))
    np.testing.assert_allclose(result, expected.reshape(result.shape), rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_nothing_reduces_to_the_identity(isa: str) -> None:
    x = np.zeros((2, 0, 3, 5), np.float32)
    assert (reduce("sum", x, "rows", isa) == 0).all()
    assert (reduce("product", x, "columns", isa) == 1).all()
    assert (reduce("max", x, "columns", isa) == -np.inf).all()

"""The softmax kernels against numpy in float64, over shapes and instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select
from engine.kernels.softmax import NARROW, strip_width
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]


def wide(x: Array, log: bool) -> Array:
    """Softmax over axis 1 in float64."""
    logits = x.astype(np.float64)
    result = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    return result if log else np.exp(result)


def softmax(x: Array, isa: str, *, log: bool = False, pieces: int = 1) -> Array:
    """Softmax over axis 1 of [outer, length] or [outer, length, inner]."""
    y = np.full(x.shape, 7, np.float32)
    if x.ndim == 2 and 1 < x.shape[1] <= NARROW:
        spec = KernelSpec.of("softmax", pattern="narrow", log=log, length=x.shape[1])
        items, words = -(-x.shape[0] // strip_width(select(isa))), {"rows": x.shape[0]}
    elif x.ndim == 2:
        spec = KernelSpec.of("softmax", pattern="rows", log=log)
        items, words = x.shape[0], {"length": x.shape[1]}
    else:
        spec = KernelSpec.of("softmax", pattern="columns", log=log)
        items = x.shape[0] * -(-x.shape[2] // strip_width(select(isa)))
        words = {"length": x.shape[1], "inner": x.shape[2]}
    assert run_kernel(spec, isa, items, pieces=pieces, x=x, y=y, **words) == 0
    return y


def data(shape: tuple[int, ...], scale: float = 5) -> Array:
    generator = np.random.default_rng(sum(shape))
    return (generator.standard_normal(shape) * scale).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.integers(0, 200))
    | st.tuples(st.integers(0, 300), st.integers(2, 4))
    | st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(0, 90)),
    st.sampled_from(ISAS),
    st.booleans(),
    st.sampled_from([0.1, 5, 80]),
)
def test_softmax_equals_wide_arithmetic(
    shape: tuple[int, ...], isa: str, log: bool, scale: float
) -> None:
    x = data(shape, scale)
    expected = wide(x, log) if x.size else x
    # A logarithm next to zero carries the rounding of the sum, which is next to one.
    atol = 1e-6 if log else 1e-8
    np.testing.assert_allclose(softmax(x, isa, log=log), expected, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(7, 129), (203, 2), (3, 9, 150)])
def test_rows_do_not_depend_on_the_split(isa: str, shape: tuple[int, ...]) -> None:
    x = data(shape)
    whole = softmax(x, isa)
    assert whole.tobytes() == softmax(x, isa, pieces=3).tobytes()
    assert whole[1:2].tobytes() == softmax(x[1:2], isa).tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("log", [False, True])
def test_masked_and_undefined_rows(isa: str, log: bool) -> None:
    x = data((4, 37))
    x[0, 5:] = -np.inf
    x[1, 3] = np.nan
    x[2] = -np.inf
    x[3] = np.finfo(np.float32).min
    for shape in (x, x[:, :, None].repeat(3, 2)):
        result = softmax(np.ascontiguousarray(shape), isa, log=log).reshape(4, 37, -1)[:, :, 0]
        np.testing.assert_allclose(result[0], wide(x[:1], log)[0], rtol=2e-5)
        assert np.isnan(result[1:3]).all()
        np.testing.assert_allclose(result[3], np.log(1 / 37) if log else 1 / 37, rtol=1e-5)

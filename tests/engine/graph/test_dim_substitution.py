"""Dims with others in place of their symbols: the value is that of evaluating in two steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph.dim_substitution import Substitution
from engine.graph.dims import (
    Dim,
    DimError,
    broadcast,
    ceildiv,
    maximum,
    minimum,
    scaled_floor,
    select_stride,
    symbol,
)

A, B, C = map(symbol, "abc")

BINARY = (
    lambda x, y: x + y,
    lambda x, y: x - y * 3,
    lambda x, y: x * y,
    lambda x, y: x // maximum(y, 1),
    lambda x, y: ceildiv(x, maximum(y, 1)),
    lambda x, y: x % maximum(y, 2),
    minimum,
    maximum,
    select_stride,
    lambda x, y: broadcast(x, 1) + y,
    lambda x, y: scaled_floor(x, 0.3) - y,
)

EXPRESSIONS = st.recursive(
    st.sampled_from([A, B, C, Dim.of(1), Dim.of(5)]),
    lambda inner: st.builds(lambda f, x, y: f(x, y), st.sampled_from(BINARY), inner, inner),
    max_leaves=8,
)


@given(EXPRESSIONS, EXPRESSIONS, st.tuples(*[st.integers(0, 9)] * 3))
def test_the_value_is_kept(dim: Dim, other: Dim, numbers: tuple[int, int, int]) -> None:
    sizes = dict(zip("abc", numbers, strict=True))
    inner = maximum(other, 0)
    found = Substitution({"a": inner, "b": Dim.of(1)})(dim)
    expected = dim.evaluate({**sizes, "a": inner.evaluate(sizes), "b": 1})
    assert found.evaluate(sizes) == expected
    assert "b" not in found.symbols - inner.symbols


def test_normal_forms() -> None:
    one = Substitution({"a": Dim.of(1)})
    assert one(A * B * 384) is B * 384
    assert one(select_stride(A, B)) is Dim.of(0)
    assert one(ceildiv(B, maximum(A, 1))) is B
    assert one(B) is B


def test_what_has_no_value() -> None:
    with pytest.raises(DimError):
        Substitution({"a": Dim.of(0)})(B // A)

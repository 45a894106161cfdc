"""Preparation of features: scaling, filling, selecting, one-hot columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, known_size, rank_of
from engine.graph.ir import AnyArray, Value
from engine.graph.learning.registry import rewrites_as


def _numeric(b: Body, index: int = 0) -> Value:
    value = b.input(index)
    if dtype_of(value).kind not in "fiu":
        raise Unsupported(f"{value.name} is {value.dtype}")
    return value


def _row(b: Body, name: str, default: float) -> AnyArray:
    return np.asarray(b.attribute(name) or [default], np.float32)


@rewrites_as("Scaler")
def _scaler(b: Body) -> None:
    """``(x - offset) * scale`` in float32, per column or by one number."""
    x = b.cast(_numeric(b), np.float32)
    offset, scale = _row(b, "offset", 0.0), _row(b, "scale", 1.0)
    if offset.any():
        x = b("Sub", x, b.constant(offset))
    b.give(0, b("Mul", x, b.constant(scale)))


@rewrites_as("Normalizer")
def _normalizer(b: Body) -> None:
    """``x / n(x)`` per row: n is the largest element, the sum of sizes or the Euclidean length.

    A row whose norm is 0 stays as it is.
    """
    x = b.cast(_numeric(b), np.float32)
    axis = b.ints(rank_of(x) - 1)
    name = b.attribute("norm", "MAX")
    if name == "MAX":
        norm = b("ReduceMax", x, axis, keepdims=1)
    elif name == "L1":
        norm = b("ReduceSum", b("Abs", x), axis, keepdims=1)
    elif name == "L2":
        norm = b("Sqrt", b("ReduceSum", b("Mul", x, x), axis, keepdims=1))
    else:
        raise Unsupported(f"its norm {name!r} is unknown")
    none = b("Equal", norm, b.like(0, norm))
    b.give(0, b("Div", x, b("Where", none, b.like(1, norm), norm)))


@rewrites_as("Imputer")
def _imputer(b: Body) -> None:
    """Elements equal to a given one, or missing (NaN), become the value of their column."""
    x = _numeric(b)
    dtype = dtype_of(x)
    whole = dtype.kind in "iu"
    given = b.attribute("imputed_value_int64s" if whole else "imputed_value_floats")
    if not given:
        raise Unsupported("it has no values for its data type")
    replaced = b.attribute("replaced_value_int64" if whole else "replaced_value_float", 0)
    values = b.constant(np.asarray(given, dtype))
    if not whole and np.isnan(replaced):
        hit = b("IsNaN", x)
    else:
        hit = b("Equal", x, b.like(replaced, x))
    b.give(0, b("Where", hit, values, x))


@rewrites_as("Binarizer")
def _binarizer(b: Body) -> None:
    """1 where x is above the threshold, else 0."""
    x = _numeric(b)
    above = b("Greater", x, b.like(b.attribute("threshold", 0.0), x))
    b.give(0, b.cast(above, dtype_of(x)))


@rewrites_as("ArrayFeatureExtractor")
def _extract(b: Body) -> None:
    """Columns by index; a vector counts as one row."""
    x = _numeric(b)
    if rank_of(x) == 1:
        x = b("Unsqueeze", x, b.ints(0))
    index = b.reshape(b.input(1), -1)
    b.give(0, b("Gather", x, index, axis=rank_of(x) - 1))


@rewrites_as("FeatureVectorizer")
def _vectorizer(b: Body) -> None:
    """All features of a row side by side, as float32."""
    count = len(b.node.inputs)
    sizes: list[Any] = list(b.attribute("inputdimensions") or [])
    parts = []
    for index in range(count):
        part = b.cast(_numeric(b, index), np.float32)
        if rank_of(part) == 1:
            part = b("Unsqueeze", part, b.ints(0))
        if rank_of(part) != 2 or (sizes and known_size(part, 1) != sizes[index]):
            raise Unsupported("the widths of its inputs are not those that it declares")
        parts.append(part)
    b.give(0, parts[0] if count == 1 else b("Concat", *parts, axis=1))


@rewrites_as("OneHotEncoder")
def _one_hot(b: Body) -> None:
    """``float(x == category)`` along a new last axis; an unknown category gives zeros."""
    x = _numeric(b)
    categories = b.attribute("cats_int64s")
    if not categories:
        raise Unsupported("its categories are texts")
    if not b.attribute("zeros", 1):
        raise Unsupported("an unknown category is an error")
    # Numbers are categories by their whole part.
    whole = b.cast(x, np.int64)
    axis = b.ints(rank_of(x))
    table = b.constant(np.asarray(categories, np.int64))
    b.give(0, b.cast(b("Equal", b("Unsqueeze", whole, axis), table), np.float32))

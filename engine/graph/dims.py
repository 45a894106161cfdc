"""Dims: the sizes in a graph as expressions; what builds them beside their operators.

The expressions themselves are in `engine.graph.dim_expression`. Ceiling division and modulus
are written with floor division, which makes ``n*(x//n) + x%n == x`` hold by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from engine.graph.dim_expression import (
    ONE,
    ZERO,
    Dim,
    apply,
    from_terms,
    proven_nonnegative,
    symbol,
)
from engine.graph.dim_source import PRIMITIVES, DimError

__all__ = [
    "Dim",
    "DimError",
    "broadcast",
    "ceildiv",
    "maximum",
    "minimum",
    "scaled_floor",
    "select_stride",
    "symbol",
]

_FLATTEN_LIMIT: Final = 16


def ceildiv(a: Dim | int, b: Dim | int) -> Dim:
    """``a / b`` rounded up."""
    a, b = Dim.of(a), Dim.of(b)
    if b.is_constant and b.value > 0:
        return (a + (b.value - 1)) // b
    return -(-a // b)


def minimum(*dims: Dim | int) -> Dim:
    """Smallest of one or more dims."""
    return _extremum("minimum", dims)


def maximum(*dims: Dim | int) -> Dim:
    """Largest of one or more dims."""
    return _extremum("maximum", dims)


def broadcast(*dims: Dim | int) -> Dim:
    """Size that dims broadcast to by numpy's rule.

    Constants that do not broadcast raise DimError at once, symbolic ones when evaluated.
    """
    args = _flatten("broadcast", dims)
    constants = [dim.value for dim in args if dim.is_constant]
    PRIMITIVES["broadcast"](*constants)
    args = [dim for dim in args if dim is not ONE]
    if not args:
        return ONE
    return args[0] if len(args) == 1 else apply("broadcast", *args)


def scaled_floor(a: Dim | int, scale: float) -> Dim:
    """``floor(a * scale)`` in float32, the size that Resize gives an axis."""
    a = Dim.of(a)
    if not math.isfinite(scale) or scale < 0:
        raise DimError(f"scale {scale} of a dimension is not a finite non-negative number")
    if a.is_constant:
        return Dim.of(PRIMITIVES["scaled_floor"](a.value, scale))
    if scale == int(scale):
        return a * int(scale)
    mantissa, exponent = math.frexp(scale)
    if mantissa == 0.5:
        return a // (1 << (1 - exponent))
    return apply("scaled_floor", a, scale=float(scale))


def select_stride(dim: Dim | int, stride: Dim | int) -> Dim:
    """0 where `dim` is 1 (a broadcast axis), else `stride`."""
    dim, stride = Dim.of(dim), Dim.of(stride)
    if stride is ZERO or dim is ONE:
        return ZERO
    if dim.is_constant or dim.at_least(2):
        return stride
    return apply("select_stride", dim, stride)


def _flatten(name: str, dims: Iterable[Dim | int]) -> list[Dim]:
    """Distinct arguments in normal order, with those of nested operations `name` spliced in.

    Minimum and maximum also take in ``min(a, b) + c`` as ``a + c`` and ``b + c``.
    """
    found: set[Dim] = set()
    for item in dims:
        dim = Dim.of(item)
        nested = [
            (monomial[0].args, monomial)
            for monomial, coefficient in dim.terms
            if len(monomial) == 1
            and coefficient == 1
            and monomial[0].name == name
            and 1 < len(monomial[0].args) < _FLATTEN_LIMIT
        ]
        if len(nested) == 1 and (len(dim.terms) == 1 or name != "broadcast"):
            args, monomial = nested[0]
            others = dim - from_terms({monomial: 1})
            found.update(arg + others for arg in args)
        else:
            found.add(dim)
    return sorted(found, key=lambda dim: dim._order)


def _extremum(name: str, dims: Iterable[Dim | int]) -> Dim:
    kept: list[Dim] = []
    for dim in _flatten(name, dims):
        if any(_dominates(name, other, dim) for other in kept):
            continue
        kept = [other for other in kept if not _dominates(name, dim, other)]
        kept.append(dim)
    if len(kept) == 1:
        return kept[0]
    shared = set(kept[0].terms).intersection(*(dim.terms for dim in kept[1:]))
    if shared:
        offset = from_terms(dict(shared))
        return offset + _extremum(name, [dim - offset for dim in kept])
    return apply(name, *kept)


def _dominates(name: str, a: Dim, b: Dim) -> bool:
    """Whether `b` may be left out beside `a`."""
    difference = b - a if name == "minimum" else a - b
    return proven_nonnegative(difference, 2)

"""What dim expressions mean, their primitives on Python integers, and how they read as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from engine.graph.dim_expression import Atom, Dim

_VALUE_LIMIT: Final = 1 << 127


class DimError(ValueError):
    """A dim expression has no value: a bad broadcast, a division by zero, an unknown symbol."""


def _divide(numerator: int, denominator: int) -> int:
    if denominator == 0:
        raise DimError(f"division of dimension {numerator} by zero")
    return numerator // denominator


def _multiply(left: int, right: int) -> int:
    product = left * right
    # Nested products could otherwise grow without end: a hostile model is a dozen Mul nodes.
    if not -_VALUE_LIMIT < product < _VALUE_LIMIT:
        raise DimError("a dimension exceeds 128 bits")
    return product


def _broadcast(*sizes: int) -> int:
    result = 1
    for size in sizes:
        if size != 1:
            if result not in (1, size):
                raise DimError(f"dimensions {result} and {size} do not broadcast")
            result = size
    return result


def _scaled_floor(size: int, scale: float) -> int:
    return math.floor(float(np.float32(size) * np.float32(scale)))


def _select_stride(dim: int, stride: int) -> int:
    return 0 if dim == 1 else stride


PRIMITIVES: Final[dict[str, Callable[..., int]]] = {
    "divide": _divide,
    "multiply": _multiply,
    "minimum": min,
    "maximum": max,
    "broadcast": _broadcast,
    "scaled_floor": _scaled_floor,
    "select_stride": _select_stride,
}
"""Meaning of every operation that is not a sum of products."""


def atoms_in_order(dims: Iterable[Dim]) -> Iterator[Atom]:
    """Every atom below `dims` once, each after the atoms it is computed from.

    Iterative, since a long chain of nodes nests atoms deeper than Python recurses.
    """
    done: set[Atom] = set()
    stack: list[tuple[Atom, bool]] = []
    for dim in dims:
        stack.extend((atom, False) for monomial, _ in dim.terms for atom in monomial)
        while stack:
            atom, ready = stack.pop()
            if atom in done:
                continue
            if ready or not atom.args:
                done.add(atom)
                yield atom
                continue
            stack.append((atom, True))
            for argument in atom.args:
                stack.extend((a, False) for monomial, _ in argument.terms for a in monomial)


def _sum_of_products(dim: Dim, name_of: Callable[[Atom], str]) -> str:
    text = ""
    for monomial, coefficient in dim.terms:
        factors = [name_of(atom) for atom in monomial]
        size = abs(coefficient)
        if size != 1 or not factors:
            factors.insert(0, str(size))
        sign = ("-" if coefficient < 0 else "") if not text else " - " if coefficient < 0 else " + "
        text += sign + "*".join(factors)
    return text


def dim_text(dim: Dim, depth: int) -> str:
    """Readable form of a dim, with operations below `depth` left out."""
    return _sum_of_products(dim, lambda atom: _atom_text(atom, depth)) or "0"


def _atom_text(atom: Atom, depth: int) -> str:
    if not atom.args:
        return atom.name
    if depth == 0:
        return "..."
    parts = [dim_text(dim, depth - 1) for dim in atom.args]
    if atom.name == "divide":
        simple = [dim.is_constant or dim.atom is not None for dim in atom.args]
        numerator, denominator = (
            part if plain else f"({part})" for part, plain in zip(parts, simple, strict=True)
        )
        return f"({numerator}//{denominator})"
    if atom.scale is not None:
        parts.append(f"{atom.scale:g}")
    return f"{atom.name}({', '.join(parts)})"

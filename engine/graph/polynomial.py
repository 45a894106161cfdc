"""Polynomials with integer coefficients over atoms, as plain terms: what dims are made of.

A monomial is a tuple of atoms in their `order`, with repetition; terms are sorted by degree, the
highest first, then by their atoms, which is a monomial order (graded lexicographic), so that
division by a leading term ends (Cox, Little, O'Shea, Ideals, Varieties and Algorithms, chapter 2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from engine.graph.dim_expression import Atom

Monomial: TypeAlias = "tuple[Atom, ...]"
Terms: TypeAlias = "tuple[tuple[Monomial, int], ...]"
"""Sorted, without zero coefficients; the constant, if any, comes last."""

_STEP_LIMIT: Final = 256


def normal_form(terms: Mapping[Monomial, int]) -> Terms:
    """Sorted terms without zeros."""
    kept = [(monomial, coefficient) for monomial, coefficient in terms.items() if coefficient]
    if len(kept) > 1:
        kept.sort(key=_order)
    return tuple(kept)


def _order(term: tuple[Monomial, int]) -> tuple[Any, ...]:
    return (-len(term[0]), [atom.order for atom in term[0]])


def multiply(a: Terms, b: Terms) -> dict[Monomial, int]:
    """Product of two polynomials."""
    product: dict[Monomial, int] = {}
    for left, left_coefficient in a:
        for right, right_coefficient in b:
            monomial = left + right
            if left and right:
                monomial = tuple(sorted(monomial, key=lambda atom: atom.order))
            product[monomial] = product.get(monomial, 0) + left_coefficient * right_coefficient
    return product


def cancel(a: Terms, b: Terms) -> tuple[dict[Monomial, int], dict[Monomial, int]]:
    """Both polynomials without the integer and the monomial that divide all their terms."""
    terms = a + b
    factor = math.gcd(*(coefficient for _, coefficient in terms))
    shared = reduce(lambda left, right: left & right, (Counter(m) for m, _ in terms))
    removed = tuple(shared.elements())

    def reduced(polynomial: Terms) -> dict[Monomial, int]:
        return {_without(m, removed) or (): c // factor for m, c in polynomial}

    return reduced(a), reduced(b)


def _without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """`monomial` divided by `factor`, None where that is not a monomial."""
    rest = list(monomial)
    for atom in factor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def divide(a: Terms, b: Terms) -> tuple[dict[Monomial, int], dict[Monomial, int]]:
    """Quotient and rest of `a` by the leading term of `b`: ``a = quotient * b + rest``.

    Coefficients of the rest are reduced modulo the leading coefficient, which must be positive.
    What needs very many steps is not divided at all.
    """
    leading, leading_coefficient = b[0]
    quotient: dict[Monomial, int] = {}
    rest = a
    for _ in range(_STEP_LIMIT):
        for monomial, coefficient in rest:
            others = _without(monomial, leading)
            if others is not None and coefficient // leading_coefficient:
                factor = coefficient // leading_coefficient
                break
        else:
            return quotient, dict(rest)
        quotient[others] = quotient.get(others, 0) + factor
        remaining = dict(rest)
        for monomial, coefficient in multiply(((others, factor),), b).items():
            remaining[monomial] = remaining.get(monomial, 0) - coefficient
        rest = normal_form(remaining)
    return {}, dict(a)

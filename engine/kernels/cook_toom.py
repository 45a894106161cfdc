"""Transforms of minimal filtering F(m, r), exact in rationals.

For interpolation points p_0 .. p_{n-2} and infinity, n = m + r - 1, the Cook-Toom construction
gives matrices with ``y = Aᵀ((G g) ⊙ (Bᵀ d))`` for the r-tap correlation of n inputs d with filter g
(Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, arXiv 1509.09308). The
points 0, 1, -1, 1/2, -2 keep the largest error of F(4, 3) in float32 to a third of that of
0, 1, -1, 2, -2 (Barabasz et al., arXiv 1803.10986, on the choice of points).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Final

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: Final = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))
"""Interpolation points of F(4, 3); infinity is the sixth."""


def _times(a: Sequence[Fraction], b: Sequence[Fraction]) -> list[Fraction]:
    """Product of polynomials, lowest coefficient first."""
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return result


@cache
def transforms(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """(Aᵀ, G, Bᵀ) of F(outputs, taps): shapes [m, n], [n, r], [n, n].

    By transposition of the polynomial product: Aᵀ evaluates at the points, Bᵀ holds the Lagrange
    basis polynomials without their denominators, which G carries.
    """
    size = outputs + taps - 1
    points = POINTS[: size - 1]
    forward = []
    filters = []
    basis = []
    for i, point in enumerate(points):
        scale = Fraction(1)
        polynomial = [Fraction(1)]
        for j, other in enumerate(points):
            if i != j:
                scale *= point - other
                polynomial = _times(polynomial, [-other, Fraction(1)])
        forward.append([point**k for k in range(outputs)])
        filters.append(tuple(point**k / scale for k in range(taps)))
        basis.append((*polynomial, Fraction(0)))
    polynomial = [Fraction(1)]
    for point in points:
        polynomial = _times(polynomial, [-point, Fraction(1)])
    forward.append([Fraction(int(k == outputs - 1)) for k in range(outputs)])
    filters.append(tuple(Fraction(int(k == taps - 1)) for k in range(taps)))
    basis.append(tuple(polynomial))
    a = tuple(tuple(row[k] for row in forward) for k in range(outputs))
    return a, tuple(filters), tuple(basis)

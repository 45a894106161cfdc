"""Fits the polynomials of `engine.codegen.math`: ``python scripts/fit_polynomials.py``.

Each fit minimises the largest weighted error over a dense grid by Lawson's algorithm (iteratively
reweighted least squares; C. L. Lawson, 1961; see J. R. Rice and K. H. Usow, "The Lawson Algorithm
and Extensions", Mathematics of Computation 22, 1968). Coefficients are then rounded to their
storage format from the lowest power upwards, the others being fitted again after every rounding,
so that later coefficients make up for the rounding of earlier ones.

The weights turn the error of the polynomial into the relative error of the function computed from
it. What is printed is pasted into the module; tests there check the functions themselves against
float64 over all exponents, so a wrong paste cannot go unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Fit:
    """A polynomial of `degree` near `target` on [low, high], its error weighted by `weight`."""

    name: str
    target: Function
    weight: Function
    degree: int
    low: float
    high: float
    dtype: Any = np.float32


def solve(fit: Fit, fixed: Array) -> tuple[Array, float]:
    """Coefficients, lowest power first, given the first few; and the largest weighted error."""
    nodes = np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
    x = (fit.low + fit.high) / 2 + (fit.high - fit.low) / 2 * nodes
    scale = max(abs(fit.low), abs(fit.high))
    basis = (x[:, None] / scale) ** np.arange(fit.degree + 1)
    powers = scale ** np.arange(fit.degree + 1)
    known = len(fixed)
    rest = fit.target(x) - basis[:, :known] @ (fixed * powers[:known])
    weight = fit.weight(x)
    lawson = np.full(len(x), 1.0 / len(x))
    best, least = np.zeros(fit.degree + 1 - known), math.inf
    for _ in range(200):
        root = np.sqrt(lawson) * weight
        solution = np.linalg.lstsq(basis[:, known:] * root[:, None], rest * root, rcond=None)[0]
        error = np.abs(rest - basis[:, known:] @ solution) * weight
        if error.max() < least:
            best, least = solution, float(error.max())
        lawson *= error / error.max()
        if not lawson.sum() > 0:
            break
        lawson /= lawson.sum()
    return np.concatenate([fixed, best / powers[known:]]), least


def rounded(fit: Fit) -> tuple[Array, float]:
    """Coefficients representable in the storage format, and the largest weighted error."""
    fixed = np.zeros(0)
    for index in range(fit.degree + 1 if fit.dtype is np.float32 else 1):
        coefficients, _ = solve(fit, fixed)
        fixed = np.append(fixed, float(fit.dtype(coefficients[index])))
    fixed = np.append(fixed, coefficients[len(fixed) :])
    nodes = np.linspace(fit.low, fit.high, 100_001)
    powers = nodes[:, None] ** np.arange(fit.degree + 1)
    with np.errstate(all="ignore"):
        errors = np.abs(fit.target(nodes) - powers @ fixed) * fit.weight(nodes)
    return fixed, float(np.nanmax(errors))


def exp_tail(x: Array) -> Array:
    """``(exp(x) - 1 - x) / x**2`` as a series, free of cancellation."""
    terms = [x**n / math.factorial(n + 2) for n in range(16)]
    return np.asarray(np.sum(terms, axis=0))


def log_tail(x: Array) -> Array:
    """``(log(1 + x) - x + x**2 / 2) / x**3``, by its series near zero."""
    series = np.sum([(-x) ** n / (n + 3) for n in range(60)], axis=0)
    with np.errstate(all="ignore"):
        direct = (np.log1p(x) - x + x * x / 2) / x**3
    return np.asarray(np.where(np.abs(x) < 0.3, series, direct))


def log2_ratio(x: Array) -> Array:
    """``log2((1 + s) / (1 - s)) / s`` at ``s = sqrt(x)``."""
    return np.asarray(np.sum([2 / math.log(2) * x**n / (2 * n + 1) for n in range(30)], axis=0))


def exp2_direct(x: Array) -> Array:
    """``2**x``."""
    return np.asarray(np.exp2(x))


def erf_series(x: Array) -> Array:
    """``erf(s) / s - 1`` at ``s = sqrt(x)``, by the Maclaurin series."""
    terms = [(-x) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(40)]
    return np.asarray(2 / math.sqrt(math.pi) * np.sum(terms, axis=0) - 1)


def log_erfc(x: Array) -> Array:
    """``log(erfc(x))``."""
    return np.array([math.log(math.erfc(value)) for value in x])


def scaled_erfc(t: Array) -> Array:
    """``exp(x**2) * erfc(x) * (1 + x)`` at ``x = 3 * (1 + t) / (1 - t)``."""
    points = 3 * (1 + t) / (1 - t)
    return np.array([math.exp(x * x) * math.erfc(x) * (1 + x) for x in points])


def sine_tail(x: Array) -> Array:
    """``(sin(s) / s - 1) / x`` at ``s = sqrt(x)``."""
    return np.asarray(
        np.sum([(-1) ** (n + 1) * x**n / math.factorial(2 * n + 3) for n in range(12)], axis=0)
    )


def cosine_tail(x: Array) -> Array:
    """``(cos(s) - 1 + x / 2) / x**2`` at ``s = sqrt(x)``."""
    return np.asarray(
        np.sum([(-1) ** n * x**n / math.factorial(2 * n + 4) for n in range(12)], axis=0)
    )


def ones(x: Array) -> Array:
    """Weight 1."""
    return np.ones_like(x)


HALF_LN2 = math.log(2) / 2 * 1.01
QUARTER = (math.pi / 4 * 1.01) ** 2
FITS = (
    Fit("EXP", exp_tail, lambda x: x * x, 4, -HALF_LN2, HALF_LN2),
    Fit("LOG", log_tail, lambda x: x * x, 8, math.sqrt(0.5) - 1, math.sqrt(2) - 1),
    Fit("ERF", erf_series, lambda x: np.sqrt(x) / np.maximum(np.sqrt(x) / 2, 0.05), 5, 0.0, 0.87),
    Fit("ERFC", log_erfc, lambda x: np.exp(log_erfc(x)), 6, 0.92, 4.0),
    Fit("SIN", sine_tail, lambda x: x, 2, 0.0, QUARTER),
    Fit("COS", cosine_tail, lambda x: x * x, 2, 0.0, QUARTER),
    Fit("LOG2_WIDE", log2_ratio, ones, 5, 0.0, 0.0295, np.float64),
    Fit("EXP2_WIDE", exp2_direct, ones, 6, -0.505, 0.505, np.float64),
    Fit("ERFC_WIDE", scaled_erfc, ones, 16, -0.5, 1 / 3, np.float64),
)


def main() -> None:
    """Print every fit as a Python constant."""
    for fit in FITS:
        coefficients, error = rounded(fit)
        print(f"# largest weighted error {error:.2e}")
        print(f"_{fit.name}: Final = (")
        for value in coefficients:
            print(f"    {value!r},".replace("np.float64(", "").replace(")", ""))
        print(")")


if __name__ == "__main__":
    main()

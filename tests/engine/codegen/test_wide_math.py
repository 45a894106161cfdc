"""Errors of the float64 functions against extended precision, over all exponents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.engine.codegen.test_math import INVERSES, SPECIAL, Array, evaluate
from tests.engine.harness import ISAS

SMALLEST = float(np.finfo(np.float64).tiny)


def every_exponent(count: int = 64) -> Array:
    """Floats of both signs with every exponent and random mantissas."""
    generator = np.random.default_rng(7)
    exponents = np.arange(2047, dtype=np.uint64)[:, None] << np.uint64(52)
    mantissas = generator.integers(0, 1 << 52, (2047, count), dtype=np.uint64)
    positive = (exponents | mantissas).reshape(-1).view(np.float64)
    return np.concatenate([positive, -positive])


def usual() -> Array:
    generator = np.random.default_rng(3)
    return np.concatenate([generator.uniform(-20, 20, 50_000), generator.uniform(-1, 1, 50_000)])


def worst(found: Array, exact: Any) -> float:
    """Largest distance in units of the last place; subnormal results may be flushed."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float64)
        same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
        same |= (np.abs(rounded) < SMALLEST) & (np.abs(found) <= SMALLEST)
        unit = np.spacing(np.maximum(np.abs(rounded), SMALLEST))
        error = np.abs(found.astype(np.longdouble) - exact) / unit
        return float(np.where(same, 0, np.where(np.isnan(error), np.inf, error)).max())


def softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x: Any) -> Any:
    return np.array([math.erf(value) for value in x], np.longdouble)


FUNCTIONS = {
    **INVERSES,
    "exp": (np.exp, 2),
    "expm1": (np.expm1, 3),
    "log": (np.log, 2),
    "log1p": (np.log1p, 3),
    "tanh": (np.tanh, 4),
    "erf": (erf, 4),
    "softplus": (softplus, 4),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_error_over_all_exponents(op: str, isa: str) -> None:
    exact, limit = FUNCTIONS[op]
    x = np.concatenate([every_exponent(), usual(), SPECIAL.astype(np.float64)])
    with np.errstate(all="ignore"):
        expected = exact(x.astype(np.longdouble))
    assert worst(evaluate(isa, op, x, dtype="float64"), expected) <= limit


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("op", "exact"), [("sin", np.sin), ("cos", np.cos), ("tan", np.tan)])
def test_trigonometric_functions(op: str, exact: Any, isa: str) -> None:
    x = every_exponent()
    x = np.concatenate([x[np.abs(x) < 2.0**17], usual(), [0.0, -0.0]])
    assert worst(evaluate(isa, op, x, dtype="float64"), exact(x.astype(np.longdouble))) <= 4
    assert np.isnan(evaluate(isa, op, np.array([np.inf, np.nan]), dtype="float64")).all()


@pytest.mark.parametrize("isa", ISAS)
def test_power(isa: str) -> None:
    generator = np.random.default_rng(5)
    x = np.concatenate([np.abs(every_exponent(20)), generator.uniform(0.9, 1.1, 50_000)])
    scale = np.where(np.arange(x.size) < x.size - 50_000, 3, 6000)
    y = generator.uniform(-1, 1, x.size) * scale
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    limit = 1500 if isa == "baseline" else 8
    assert worst(evaluate(isa, "pow", x, y, dtype="float64"), exact) <= limit


@pytest.mark.parametrize("isa", ISAS)
def test_power_special_cases_are_those_of_c(isa: str) -> None:
    special = SPECIAL.astype(np.float64)
    x, y = (grid.reshape(-1) for grid in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    found = evaluate(isa, "pow", x, y, dtype="float64")
    limits = (expected == 0) | ~np.isfinite(expected)
    np.testing.assert_array_equal(found[limits], expected[limits])
    kept = limits & ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[kept]), np.signbit(expected[kept]))

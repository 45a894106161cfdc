"""Errors of the elementary functions against float64, over all exponents and special values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from engine.codegen.expression import Expr
from engine.codegen.kernel import KernelSpec
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]


def evaluate(isa: str, op: str, *inputs: Array, dtype: str = "float32") -> Array:
    """`op` of vectors, by the element-wise kernel."""
    x = [np.ascontiguousarray(i, dtype) for i in inputs]
    y = np.zeros_like(x[0])
    arguments = Expr.of(op, *(Expr.input(i, dtype) for i in range(len(x))))
    spec = KernelSpec.of(
        "elementwise",
        expressions=[arguments.to_json()],
        dtypes=[dtype] * len(x),
        modes="c" * len(x),
        outer=0,
    )
    words = {f"x{i}_row": 0 for i in range(len(x))}
    tensors = {f"x{i}": array for i, array in enumerate(x)}
    status = run_kernel(
        spec,
        isa,
        1,
        rows=1,
        columns=x[0].size,
        tile_rows=1,
        tile_columns=x[0].size,
        row_tiles=1,
        column_tiles=1,
        y0=y,
        y0_row=0,
        **words,
        **tensors,
    )
    assert status == 0
    return y


LOWEST_NORMAL = -87.33654
"""Arguments below have an exponential below 2**-126."""


def every_exponent(per_exponent: int = 1024) -> Array:
    """Floats of both signs with every exponent, subnormals too, and random mantissas."""
    generator = np.random.default_rng(7)
    exponents = np.arange(0, 255, dtype=np.uint32)[:, None] << 23
    mantissas = generator.integers(0, 1 << 23, (255, per_exponent), dtype=np.uint32)
    positive = (exponents | mantissas).reshape(-1).view(np.float32)
    return np.concatenate([positive, -positive])


def ulps(found: Array, exact: Array) -> Array:
    """Distance in units of the last place of the exact value, which is float64."""
    with np.errstate(all="ignore"):
        limit = np.float64(np.finfo(np.float32).max)
        unit = np.spacing(np.clip(np.abs(exact), 2.0**-149, limit).astype(np.float32))
        rounded = exact.astype(np.float32)
        same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
        return np.where(same, 0.0, np.abs(found.astype(np.float64) - exact) / unit)


def check(isa: str, op: str, exact: Any, limit: float, x: Array) -> None:
    with np.errstate(all="ignore"):
        expected = exact(x.astype(np.float64))
    errors = ulps(evaluate(isa, op, x), expected)
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    assert errors[worst] <= limit, (op, x[worst], errors[worst])


def exact_erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x])


def exact_sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def exact_softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


INVERSES = {
    "asin": (np.arcsin, 4),
    "acos": (np.arccos, 4),
    "atan": (np.arctan, 3),
    "sinh": (np.sinh, 6),
    "cosh": (np.cosh, 6),
    "asinh": (np.arcsinh, 4),
    "acosh": (np.arccosh, 4),
    "atanh": (np.arctanh, 4),
}
FUNCTIONS = {
    **INVERSES,
    "exp": (np.exp, 2),
    "expm1": (np.expm1, 3),
    "log": (np.log, 2),
    "log1p": (np.log1p, 3),
    "tanh": (np.tanh, 3),
    "erf": (exact_erf, 2),
    "softplus": (exact_softplus, 3),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_error_over_all_exponents(op: str, isa: str) -> None:
    exact, limit = FUNCTIONS[op]
    x = every_exponent()
    if op in ("exp", "softplus"):  # their subnormal results are flushed to zero
        x = x[(x >= LOWEST_NORMAL) | (x < -104)]
    check(isa, op, exact, limit, x)
    usual = np.random.default_rng(3).uniform(-20, 20, 200_000).astype(np.float32)
    check(isa, op, exact, limit, usual)
    check(isa, op, exact, limit, usual / 20)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_of_any_payload_stays_nan(isa: str) -> None:
    payloads = np.arange(0x7FC00000, 0x7FC00000 + 1024, dtype=np.uint32).view(np.float32)
    for op in ("erf", "tanh", "exp", "softplus", "sigmoid"):
        assert np.isnan(evaluate(isa, op, payloads)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_exp_where_it_underflows_or_nearly_overflows(isa: str) -> None:
    low = np.linspace(-104.5, -87, 100_000, dtype=np.float32)
    normal = low >= LOWEST_NORMAL
    check(isa, "exp", np.exp, 2, low[normal])
    assert not evaluate(isa, "exp", low[~normal]).any()
    check(isa, "exp", np.exp, 2, np.linspace(88, 89, 100_000, dtype=np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_sigmoid(isa: str) -> None:
    """Results below the smallest normal number may be flushed."""
    x = every_exponent()
    check(isa, "sigmoid", exact_sigmoid, 3, x[x > -87])
    far = x[x <= -87]
    found = evaluate(isa, "sigmoid", far)
    assert np.all((found >= 0) & (found <= np.exp(-87.0, dtype=np.float64)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "exact", "limit"), [("sin", np.sin, 2), ("cos", np.cos, 2), ("tan", np.tan, 4)]
)
def test_trigonometric_functions_below_their_bound(
    op: str, exact: Any, limit: float, isa: str
) -> None:
    x = every_exponent()
    check(isa, op, exact, limit, x[np.abs(x) < 2.0**29])
    turns = np.arange(-5000, 5000) * (np.pi / 2)
    near_zeros = (turns[:, None] + np.array([-1e-3, 0.0, 1e-3])).reshape(-1).astype(np.float32)
    check(isa, op, exact, limit, near_zeros)


_PLAIN = (0.0, 1.0, 0.5, 2.0, 3.0, 2.5, 1e-45, 1e-38, 3.4e38, 2.0**24, 2.0**23 + 1, 88.8, 104.0)
SPECIAL = np.array([*_PLAIN, np.inf, np.nan], np.float32)
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "exact"),
    [
        ("exp", np.exp),
        ("expm1", np.expm1),
        ("log", np.log),
        ("log1p", np.log1p),
        ("tanh", np.tanh),
        ("erf", exact_erf),
        ("sigmoid", exact_sigmoid),
        ("softplus", exact_softplus),
        *((op, exact) for op, (exact, _) in INVERSES.items()),
    ],
)
def test_special_values(op: str, exact: Any, isa: str) -> None:
    with np.errstate(all="ignore"):
        expected = exact(SPECIAL.astype(np.float64)).astype(np.float32)
    found = evaluate(isa, op, SPECIAL)
    flushed = np.abs(expected) < 1e-37 if op == "sigmoid" else np.zeros_like(found, bool)
    special_cases = ~np.isfinite(expected) | (expected == 0) | flushed
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    exactly = special_cases & ~flushed & ~np.isnan(expected)
    np.testing.assert_array_equal(found[exactly], expected[exactly])
    np.testing.assert_array_equal(np.signbit(found[exactly]), np.signbit(expected[exactly]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["sin", "cos", "tan"])
def test_phase_of_infinity_is_nan(op: str, isa: str) -> None:
    assert np.isnan(evaluate(isa, op, np.array([np.inf, -np.inf, np.nan], np.float32))).all()


@pytest.mark.parametrize("isa", ISAS)
def test_power_special_cases_are_those_of_c(isa: str) -> None:
    x, y = (grid.reshape(-1) for grid in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64))
        errors = ulps(evaluate(isa, "pow", x, y), expected)
    assert errors.max() <= 1, (x[errors.argmax()], y[errors.argmax()])
    special_cases = (expected == 0) | np.isinf(expected)
    np.testing.assert_array_equal(
        np.signbit(evaluate(isa, "pow", x, y))[special_cases], np.signbit(expected)[special_cases]
    )


@pytest.mark.parametrize("isa", ISAS)
def test_power_error(isa: str) -> None:
    generator = np.random.default_rng(5)
    x = np.abs(every_exponent())
    y = generator.uniform(-3, 3, x.size).astype(np.float32)
    x = np.concatenate([x, generator.uniform(0.9, 1.1, 100_000).astype(np.float32)])
    y = np.concatenate([y, generator.uniform(-900, 900, 100_000).astype(np.float32)])
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64))
    assert ulps(evaluate(isa, "pow", x, y), expected).max() <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("op", "exact"), [("round", np.rint), ("floor", np.floor), ("ceil", np.ceil)]
)
def test_rounding_is_exact(op: str, exact: Any, isa: str) -> None:
    halves = np.arange(-2000, 2000) / 4
    x = np.concatenate([every_exponent(), SPECIAL, halves.astype(np.float32)])
    with np.errstate(all="ignore"):
        found, expected = evaluate(isa, op, x), exact(x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))

"""Inverse trigonometric, hyperbolic and inverse hyperbolic functions of float32 and float64.

Each function takes a scalar or vector of any lane count and returns the same type, by identities
over the functions of `engine.codegen.math` and `engine.codegen.wide_math` (M. Abramowitz and I. A.
Stegun, Handbook of Mathematical Functions, sections 4.4 to 4.6) chosen so that nothing cancels.
"""

from __future__ import annotations

import math as numbers
from types import ModuleType
from typing import Final

from engine.codegen import math, wide_math
from engine.codegen.builder import F64, KernelBuilder, Val, element
from engine.codegen.math import polynomial

_TERMS: Final = {False: 9, True: 21}
"""Terms of the arc tangent's series below tan(pi/8), in float32 and float64."""

_LN2: Final = numbers.log(2)


def _functions(x: Val) -> ModuleType:
    return wide_math if element(x.type) == F64 else math


def _far(x: Val) -> float:
    """Where squares plus 1 are squares."""
    return 2.0**28 if element(x.type) == F64 else 2.0**14


def atan(k: KernelBuilder, x: Val) -> Val:
    """Arc tangent, at most 3 ulp: of 1/x beyond 1, of (x - 1)/(x + 1) beyond tan(pi/8)."""
    size = k.unary("fabs", x)
    turned = size > 1.0
    t = k.select(turned, 1.0 / size, size)
    large = t > numbers.tan(numbers.pi / 8)
    reduced = k.select(large, (t - 1.0) / (t + 1.0), t)
    square = reduced * reduced
    terms = _TERMS[element(x.type) == F64]
    tail = polynomial(k, square, [(-1) ** n / (2 * n + 1) for n in range(1, terms)])
    series = k.fma(tail * square, reduced, reduced)
    angle = k.select(large, series + numbers.pi / 4, series)
    return k.binary("copysign", k.select(turned, numbers.pi / 2 - angle, angle), x)


def asin(k: KernelBuilder, x: Val) -> Val:
    """Arc sine, at most 4 ulp; NaN beyond +-1."""
    root = k.unary("sqrt", (1.0 - x) * (x + 1.0))
    return atan(k, x / (root + 1.0)) * 2.0


def acos(k: KernelBuilder, x: Val) -> Val:
    """Arc cosine, at most 4 ulp, also near 1; NaN beyond +-1."""
    return atan(k, k.unary("sqrt", (1.0 - x) / (x + 1.0))) * 2.0


def sinh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic sine, at most 6 ulp; overflows only where the result does."""
    f = _functions(x)
    size = k.unary("fabs", x)
    small = size < 1.0
    t = f.expm1(k, k.select(small, size, k.const(1.0, x.type)))
    near = (t + t / (t + 1.0)) * 0.5
    root = f.exp(k, size * 0.5)
    far = (root * 0.5) * root - 0.5 / root / root
    return k.binary("copysign", k.select(small, near, far), x)


def cosh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic cosine, at most 6 ulp; overflows only where the result does."""
    root: Val = _functions(x).exp(k, k.unary("fabs", x) * 0.5)
    return (root * 0.5) * root + 0.5 / root / root


def asinh(k: KernelBuilder, x: Val) -> Val:
    """Inverse hyperbolic sine, at most 4 ulp."""
    f = _functions(x)
    size = k.unary("fabs", x)
    far = size > _far(x)
    held = k.select(far, k.const(1.0, x.type), size)
    square = held * held
    near = f.log1p(k, held + square / (k.unary("sqrt", square + 1.0) + 1.0))
    return k.binary("copysign", k.select(far, f.log(k, size) + _LN2, near), x)


def acosh(k: KernelBuilder, x: Val) -> Val:
    """Inverse hyperbolic cosine, at most 4 ulp; NaN below 1."""
    f = _functions(x)
    far = x > _far(x)
    above = k.select(far, k.const(1.0, x.type), x) - 1.0
    near = f.log1p(k, above + k.unary("sqrt", above * (above + 2.0)))
    result = k.select(far, f.log(k, x) + _LN2, near)
    return k.select(x < 1.0, k.const(numbers.nan, x.type), result)


def atanh(k: KernelBuilder, x: Val) -> Val:
    """Inverse hyperbolic tangent, at most 4 ulp; infinite at +-1, NaN beyond."""
    size = k.unary("fabs", x)
    half = _functions(x).log1p(k, (size + size) / (1.0 - size)) * 0.5
    return k.binary("copysign", half, x)

"""Vectorised float32 elementary functions in the kernel language.

Every function takes a float32 scalar or vector of any lane count and returns the same type.
Argument reduction follows W. J. Cody and W. Waite, Software Manual for the Elementary Functions
(1980); the polynomials are our own, fitted by ``scripts/fit_polynomials.py`` (Lawson's algorithm,
weighted so that the error is relative to the function). Errors in the docstrings are the largest
found over all exponents, with and without fused multiply-add; nothing depends on fusing but the
last ulp.
Subnormal results are rounded like others unless a docstring says that they are flushed to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import F64, I32, I64, KernelBuilder, Val

_EXP: Final = (
    0.5,
    0.16666515171527863,
    0.04166637733578682,
    0.008369393646717072,
    0.0013942922232672572,
)
_LOG: Final = (
    0.3333331048488617,
    -0.24999986588954926,
    0.20002223551273346,
    -0.16669249534606934,
    0.14218716323375702,
    -0.12384402006864548,
    0.11872619390487671,
    -0.11789370328187943,
    0.06915612518787384,
)
_ERF: Final = (
    0.12837913632392883,
    -0.37612462043762207,
    0.11281581968069077,
    -0.026759354397654533,
    0.0049833315424621105,
    -0.0005942721618339419,
)
_ERFC: Final = (
    -0.0002070170739898458,
    -1.1276273727416992,
    -0.6372658014297485,
    -0.10385631024837494,
    0.022189723327755928,
    -0.0030336694326251745,
    0.00019494295702315867,
)
_SIN: Final = (-0.16666653752326965, 0.008332101628184319, -0.00019506842363625765)
_COS: Final = (0.04166664555668831, -0.00138873013202101, 2.443066841806285e-05)
_LOG2_WIDE: Final = (
    2.885390081777849,
    0.9617966941159322,
    0.5770779415645333,
    0.4122093371510506,
    0.3199020652310582,
    0.2829541633256679,
)
_EXP2_WIDE: Final = (
    0.9999999999123571,
    0.6931472083201546,
    0.2402265155487089,
    0.05550323814240926,
    0.009617989043183861,
    0.001340177875676191,
    0.00015479522262089492,
)

_MAGIC: Final = 12582912.0
"""1.5 * 2**23: adding it to a small float32 leaves the nearest integer in the low bits."""
_MAGIC_WIDE: Final = 6755399441055744.0
"""1.5 * 2**52, the same for float64."""
_LN2_HIGH: Final = 0.693359375
"""ln 2 to 9 bits after the point: its product with an exponent is exact in float32."""
_LN2_LOW: Final = math.log(2) - _LN2_HIGH
_LOG2_E: Final = 1 / math.log(2)
_EXP_LOW: Final = -87.33654022216797
_EXP_HIGH: Final = 88.72283172607422
"""Smallest and largest float32 whose exponential is a normal number."""
_SQRT_HALF_BITS: Final = 0x3F3504F3
_HALF_PI: Final = (1.570796251296997, 7.549789415861596e-08, 5.390302858158119e-15)
"""pi/2 in pieces of 24, 24 and 53 bits: products with quadrants below 2**29 are exact."""


def like(kind: Any, scalar: Any) -> Any:
    """Scalar type `scalar`, with as many lanes as `kind`."""
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def polynomial(k: KernelBuilder, x: Val, coefficients: Sequence[float]) -> Val:
    """Horner's rule, lowest power first."""
    result = k.const(coefficients[-1], x.type)
    for coefficient in reversed(coefficients[:-1]):
        result = k.fma(result, x, k.const(coefficient, x.type))
    return result


def _clamp(k: KernelBuilder, x: Val, low: float, high: float) -> Val:
    """`x` held to [low, high]; NaN stays NaN."""
    x = k.select(x < low, k.const(low, x.type), x)
    return k.select(x > high, k.const(high, x.type), x)


def _exp_parts(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """(s, r + r**2 * q(r)) with r in +-ln(2)/2 and ``exp(x) = 2**n * (1 + second)``.

    The low 9 bits of s hold n, the others the bits of the magic number.
    """
    magic = k.const(_MAGIC, x.type)
    shifted = k.fma(x, k.const(_LOG2_E, x.type), magic)
    whole = shifted - magic
    r = k.fma(whole, k.const(-_LN2_HIGH, x.type), x)
    r = k.fma(whole, k.const(-_LN2_LOW, x.type), r)
    return k.bitcast(shifted, like(x.type, I32)), k.fma(r * r, polynomial(k, r, _EXP), r)


def exp_held(k: KernelBuilder, x: Val) -> Val:
    """``e**x``, at most 2 ulp, for arguments held to [-87.3, 88.3] or NaN; 3/4 of the work."""
    shifted, tail = _exp_parts(k, x)
    scale = k.bitcast((shifted << 23) + (127 << 23), x.type)
    return k.fma(tail, scale, scale)


def exp(k: KernelBuilder, x: Val) -> Val:
    """``e**x``, at most 2 ulp; overflows to inf, results below 2**-126 are flushed to zero."""
    shifted, tail = _exp_parts(k, x)
    # Adding to the exponent's bits reaches 2**128 * p with p < 1, where 2**128 alone overflows.
    bits = k.bitcast(tail + 1.0, shifted.type) + (shifted << 23)
    result = k.select(x < _EXP_LOW, k.const(0.0, x.type), k.bitcast(bits, x.type))
    # The sum is inf beyond the range and NaN for NaN, for which the comparison is false.
    return k.select(x <= _EXP_HIGH, result, x + math.inf)


def exp_falling(k: KernelBuilder, x: Val) -> Val:
    """``e**x``, at most 2 ulp, for x <= 88 or NaN; results below 2**-126 are flushed to zero."""
    held = k.select(x < _EXP_LOW, k.const(_EXP_LOW, x.type), x)
    return k.select(x < _EXP_LOW, k.const(0.0, x.type), exp_held(k, held))


def expm1(k: KernelBuilder, x: Val) -> Val:
    """``e**x - 1``, at most 3 ulp, also near zero."""
    result = _expm1_bounded(k, _clamp(k, x, -18.0, 89.0))
    return k.select(k.unary("fabs", x) < 2.0**-25, x, result)


def _expm1_bounded(k: KernelBuilder, x: Val) -> Val:
    """``e**x - 1`` for x in [-18, 89]; the sign of zero is lost."""
    shifted, tail = _exp_parts(k, x)
    # Half of 2**n, which is finite for every n that occurs.
    scale = k.bitcast((shifted << 23) + (126 << 23), x.type)
    return k.fma(scale, tail, scale - 0.5) * 2.0


def _split(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """int32 e and m in [sqrt(1/2), sqrt(2)) with ``x = m * 2**e``, for normal positive x."""
    bits = k.bitcast(x, like(x.type, I32)) - _SQRT_HALF_BITS
    return bits >> 23, k.bitcast((bits & 0x7FFFFF) + _SQRT_HALF_BITS, x.type)


def _log_parts(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """As `_split`, for subnormal x too."""
    tiny = x < 2.0**-126
    exponent, mantissa = _split(k, k.select(tiny, x * 2.0**23, x))
    shift = k.select(tiny, k.const(23, exponent.type), k.const(0, exponent.type))
    return exponent - shift, mantissa


def _log_special(k: KernelBuilder, x: Val, result: Val) -> Val:
    """`result` with the logarithm's values at 0, inf, negative numbers and NaN."""
    result = k.select(x.equals(0.0), k.const(-math.inf, x.type), result)
    result = k.select(x < math.inf, result, x)
    return k.select(x < 0.0, k.const(math.nan, x.type), result)


def log(k: KernelBuilder, x: Val) -> Val:
    """Natural logarithm, at most 2 ulp; -inf at zero, NaN below, subnormal arguments exact."""
    exponent, mantissa = _log_parts(k, x)
    return _log_special(k, x, _log_sum(k, exponent, mantissa, None))


def _log_sum(k: KernelBuilder, exponent: Val, mantissa: Val, low: Val | None) -> Val:
    """``exponent * ln(2) + log(mantissa) + low``, small terms first."""
    f = mantissa - 1.0
    square = f * f
    e = k.convert(exponent, f.type)
    tail = polynomial(k, f, _LOG) * (f * square)
    tail = k.fma(e, k.const(_LN2_LOW, f.type), tail)
    if low is not None:
        tail = tail + low
    tail = k.fma(square, k.const(-0.5, f.type), tail)
    return k.fma(e, k.const(_LN2_HIGH, f.type), f + tail)


def log1p(k: KernelBuilder, x: Val) -> Val:
    """``log(1 + x)``, at most 3 ulp, also near zero: what rounding ``1 + x`` lost is added back."""
    u = x + 1.0
    large = x > 1.0
    lost = k.select(large, 1.0 - (u - x), x - (u - 1.0))
    exponent, mantissa = _log_parts(k, u)
    result = _log_special(k, u, _log_sum(k, exponent, mantissa, lost / u))
    result = k.select(u.equals(0.0), k.const(-math.inf, x.type), result)
    result = k.select(u.equals(math.inf), u, result)
    return k.select(k.unary("fabs", x) < 2.0**-25, x, result)


def softplus(k: KernelBuilder, x: Val) -> Val:
    """``log(1 + e**x)``, at most 3 ulp, without overflow."""
    decay = exp(k, -k.unary("fabs", x))
    u = decay + 1.0
    exponent, mantissa = _split(k, u)
    # No special case can occur in [1, 2], and a small `decay` is nearly all of what was lost.
    logarithm = _log_sum(k, exponent, mantissa, (decay - (u - 1.0)) / u)
    return k.select(x < 0.0, k.const(0.0, x.type), x) + logarithm


def sigmoid(k: KernelBuilder, x: Val) -> Val:
    """``1 / (1 + e**-x)``, at most 3 ulp; subnormal results may flush to zero."""
    return k.const(1.0, x.type) / (exp(k, -x) + 1.0)


def tanh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic tangent, at most 3 ulp; odd, exactly +-1 beyond 9.1, keeps -0 and subnormals."""
    size = k.unary("fabs", x)
    doubled = _expm1_bounded(k, k.select(size > 10.0, k.const(20.0, x.type), size + size))
    return k.binary("copysign", doubled / (doubled + 2.0), x)


def erf(k: KernelBuilder, x: Val) -> Val:
    """Error function, at most 2 ulp; odd, exactly +-1 beyond 4.

    Near zero an odd polynomial; elsewhere ``1 - exp(p(|x|))`` with p fitted to log(erfc), after
    the one-sided form in J. F. Hart et al., Computer Approximations (1968), section 6.7.
    """
    size = k.unary("fabs", x)
    square = size * size
    near = k.fma(polynomial(k, square, _ERF), size, size)
    held = k.select(size > 4.0, k.const(4.0, x.type), size)
    far = k.const(1.0, x.type) - exp_held(k, polynomial(k, held, _ERFC))
    return k.binary("copysign", k.select(size < 0.925, near, far), x)


def power(k: KernelBuilder, x: Val, y: Val) -> Val:
    """``x**y``, at most 1 ulp; all special cases of C99 (ISO/IEC 9899:1999, F.9.4.4).

    The logarithm and its product with `y` are kept in float64, since their error is multiplied by
    the size of the exponent.
    """
    kind = x.type
    wide, integers, longs = like(kind, F64), like(kind, I32), like(kind, I64)
    size = k.unary("fabs", x)
    exponent, mantissa = _log_parts(k, size)
    m = k.convert(mantissa, wide)
    s = (m - 1.0) / (m + 1.0)
    logarithm = s * polynomial(k, s * s, _LOG2_WIDE) + k.convert(exponent, wide)
    logarithm = k.select(size.equals(0.0), k.const(-math.inf, wide), logarithm)
    logarithm = k.select(size < math.inf, logarithm, k.convert(size, wide))
    t = _clamp(k, k.convert(y, wide) * logarithm, -200.0, 200.0)
    shifted = t + _MAGIC_WIDE
    fraction = t - (shifted - _MAGIC_WIDE)
    scale = k.bitcast((k.bitcast(shifted, longs) + 1023) << 52, wide)
    result = k.convert(polynomial(k, fraction, _EXP2_WIDE) * scale, kind)

    y_size = k.unary("fabs", y)
    exact = y_size < 2.0**24
    whole = k.convert(k.select(exact, y, k.const(0.0, kind)), integers)
    is_integer = k.select(exact, k.convert(whole, kind).equals(y), y.equals(y))
    odd = k.select(exact, (whole & 1).differs(0), k.const(0, like(kind, ir.IntType(1))))
    negative = k.bitcast(x, integers) < 0
    result = k.select(negative & is_integer & odd, -result, result)
    undefined = (x < 0.0) & (size < math.inf) & (is_integer ^ 1)
    result = k.select(undefined, k.const(math.nan, kind), result)
    one = y.equals(0.0) | x.equals(1.0) | (size.equals(1.0) & y_size.equals(math.inf))
    return k.select(one, k.const(1.0, kind), result)


def _sine_cosine(k: KernelBuilder, x: Val) -> tuple[Val, Val, Val]:
    """(quadrant as int32, sine, cosine of what is left after taking out quarter turns)."""
    wide, longs = like(x.type, F64), like(x.type, I64)
    value = k.convert(x, wide)
    shifted = value * (2 / math.pi) + _MAGIC_WIDE
    turns = shifted - _MAGIC_WIDE
    rest = value
    for piece in _HALF_PI:
        rest = rest - turns * piece
    r = k.convert(rest, x.type)
    square = r * r
    sine = k.fma(polynomial(k, square, _SIN) * square, r, r)
    cosine = k.fma(polynomial(k, square, _COS), square * square, 1.0 - square * 0.5)
    return k.convert(k.bitcast(shifted, longs), like(x.type, I32)), sine, cosine


def _quadrant(k: KernelBuilder, quadrant: Val, sine: Val, cosine: Val) -> Val:
    """Sine in the given quadrant."""
    value = k.select((quadrant & 1).differs(0), cosine, sine)
    return k.select((quadrant & 2).differs(0), -value, value)


def sin(k: KernelBuilder, x: Val) -> Val:
    """Sine, at most 2 ulp for ``|x| < 2**29``; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    return k.select(x.equals(0.0), x, _quadrant(k, quadrant, sine, cosine))


def cos(k: KernelBuilder, x: Val) -> Val:
    """Cosine, at most 2 ulp for ``|x| < 2**29``; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    return _quadrant(k, quadrant + 1, sine, cosine)


def tan(k: KernelBuilder, x: Val) -> Val:
    """Tangent, at most 4 ulp for ``|x| < 2**29``; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    over = _quadrant(k, quadrant, sine, cosine) / _quadrant(k, quadrant + 1, sine, cosine)
    return k.select(x.equals(0.0), x, over)


def nearest(k: KernelBuilder, x: Val) -> Val:
    """Nearest integer of a float32 or float64, ties to even, keeping the sign of zero."""
    if k.target.fused:  # every level with fused multiply-add has a rounding instruction
        return k.unary("roundeven", x)
    limit = 2.0**52 if like(x.type, F64) == x.type else 2.0**23
    size = k.unary("fabs", x)
    rounded = k.binary("copysign", (size + limit) - limit, x)
    return k.select(size < limit, rounded, x)


def floor(k: KernelBuilder, x: Val) -> Val:
    """Largest integer not above x, keeping the sign of zero."""
    if k.target.fused:
        return k.unary("floor", x)
    rounded = nearest(k, x)
    return k.binary("copysign", k.select(rounded > x, rounded - 1.0, rounded), x)


def ceil(k: KernelBuilder, x: Val) -> Val:
    """Smallest integer not below x, keeping the sign of zero."""
    return -floor(k, -x)

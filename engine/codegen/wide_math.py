"""Vectorised float64 elementary functions in the kernel language.

Each function takes a float64 scalar or vector of any lane count and returns the same type. Argument
reduction follows Cody and Waite as in `engine.codegen.math`. In float64 the number of terms matters
less than in float32, so that most polynomials are Taylor's, whose coefficients need no fitting; the
error function beyond 1 is fitted by ``scripts/fit_polynomials.py``. Pieces of ln 2 and pi/2 with
trailing zeros are those of fdlibm (Sun Microsystems, 1993). Errors in the docstrings are in units
of the last place, on targets with fused multiply-add.
"""

from __future__ import annotations

import math
from typing import Final

import llvmlite.ir as ir

from engine.codegen.builder import I64, KernelBuilder, Val
from engine.codegen.math import like, polynomial

_MAGIC: Final = 6755399441055744.0
"""1.5 * 2**52: adding it to a small float64 leaves the nearest integer in the low bits."""
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_EXP_LOW: Final = -708.3964185322641
_EXP_HIGH: Final = 709.782712893384
_SQRT_HALF_BITS: Final = 0x3FE6A09E667F3BCD
_HALF_PI: Final = (
    1.57079632673412561417e00,
    6.07710050630396597660e-11,
    2.02226624871116645580e-21,
    8.47842766036889956997e-32,
)

_EXP: Final = tuple(1 / math.factorial(n + 2) for n in range(12))
_LOG: Final = tuple(2 / (2 * n + 3) for n in range(11))
_ERF: Final = tuple(
    2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(20)
)
_SIN: Final = tuple((-1) ** (n + 1) / math.factorial(2 * n + 3) for n in range(8))
_COS: Final = tuple((-1) ** n / math.factorial(2 * n + 4) for n in range(8))
_ERFC: Final = (
    0.7160046047255607,
    -0.230927333083792,
    0.0990207536790426,
    -0.01023538890318669,
    -0.023803913061963812,
    0.021957764285168664,
    -0.009750691291969798,
    0.0016185605059107452,
    0.000645853976067841,
    -0.00036713475309978964,
    -2.093746093527402e-05,
    5.454543410158137e-05,
    1.5624483299064163e-08,
    -4.095180063138289e-07,
    1.0463852511797516e-06,
    -1.7652691658073785e-05,
    -1.547460290626687e-05,
)


def _exp_parts(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """(s, t) with ``exp(x) = 2**n * (1 + t)`` and n in the low 11 bits of s."""
    shifted = k.fma(x, k.const(1 / math.log(2), x.type), k.const(_MAGIC, x.type))
    whole = shifted - _MAGIC
    r = k.fma(whole, k.const(-_LN2_HIGH, x.type), x)
    r = k.fma(whole, k.const(-_LN2_LOW, x.type), r)
    return k.bitcast(shifted, like(x.type, I64)), k.fma(r * r, polynomial(k, r, _EXP), r)


def exp(k: KernelBuilder, x: Val) -> Val:
    """``e**x``, at most 2 ulp; overflows to inf, results below 2**-1022 are flushed to zero."""
    shifted, tail = _exp_parts(k, x)
    bits = k.bitcast(tail + 1.0, shifted.type) + (shifted << 52)
    result = k.select(x < _EXP_LOW, k.const(0.0, x.type), k.bitcast(bits, x.type))
    return k.select(x <= _EXP_HIGH, result, x + math.inf)


def _expm1_bounded(k: KernelBuilder, x: Val) -> Val:
    """``e**x - 1`` for x in [-40, 710]; the sign of zero is lost."""
    shifted, tail = _exp_parts(k, x)
    scale = k.bitcast((shifted << 52) + (1022 << 52), x.type)
    return k.fma(scale, tail, scale - 0.5) * 2.0


def expm1(k: KernelBuilder, x: Val) -> Val:
    """``e**x - 1``, at most 3 ulp, also near zero."""
    low = k.select(x < -40.0, k.const(-40.0, x.type), x)
    result = _expm1_bounded(k, k.select(low > 710.0, k.const(710.0, x.type), low))
    return k.select(k.unary("fabs", x) < 2.0**-54, x, result)


def _log_parts(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """float64 e and m in [sqrt(1/2), sqrt(2)) with ``x = m * 2**e``, for positive x."""
    tiny = x < 2.0**-1022
    bits = k.bitcast(k.select(tiny, x * 2.0**54, x), like(x.type, I64)) - _SQRT_HALF_BITS
    exponent = k.convert(bits >> 52, x.type)
    shift = k.select(tiny, k.const(54.0, x.type), k.const(0.0, x.type))
    mantissa = k.bitcast((bits & ((1 << 52) - 1)) + _SQRT_HALF_BITS, x.type)
    return exponent - shift, mantissa


def _log_sum(k: KernelBuilder, exponent: Val, mantissa: Val, low: Val | None = None) -> Val:
    """``exponent * ln(2) + log(mantissa) + low``, small terms first."""
    f = mantissa - 1.0
    s = f / (f + 2.0)
    square = s * s
    half = f * f * 0.5
    rest = polynomial(k, square, _LOG) * square
    tail = k.fma(exponent, k.const(_LN2_LOW, f.type), s * (half + rest))
    if low is not None:
        tail = tail + low
    return k.fma(exponent, k.const(_LN2_HIGH, f.type), f - (half - tail))


def _log_special(k: KernelBuilder, x: Val, result: Val) -> Val:
    """`result` with the logarithm's values at 0, inf, negative numbers and NaN."""
    result = k.select(x.equals(0.0), k.const(-math.inf, x.type), result)
    result = k.select(x < math.inf, result, x)
    return k.select(x < 0.0, k.const(math.nan, x.type), result)


def log(k: KernelBuilder, x: Val) -> Val:
    """Natural logarithm, at most 2 ulp; -inf at zero, NaN below."""
    return _log_special(k, x, _log_sum(k, *_log_parts(k, x)))


def log1p(k: KernelBuilder, x: Val) -> Val:
    """``log(1 + x)``, at most 3 ulp, also near zero: what rounding ``1 + x`` lost is added back."""
    u = x + 1.0
    lost = k.select(x > 1.0, 1.0 - (u - x), x - (u - 1.0))
    exponent, mantissa = _log_parts(k, u)
    result = _log_special(k, u, _log_sum(k, exponent, mantissa, lost / u))
    result = k.select(u.equals(0.0), k.const(-math.inf, x.type), result)
    result = k.select(u.equals(math.inf), u, result)
    return k.select(k.unary("fabs", x) < 2.0**-54, x, result)


def softplus(k: KernelBuilder, x: Val) -> Val:
    """``log(1 + e**x)``, at most 4 ulp, without overflow."""
    decay = exp(k, -k.unary("fabs", x))
    return k.select(x < 0.0, k.const(0.0, x.type), x) + log1p(k, decay)


def sigmoid(k: KernelBuilder, x: Val) -> Val:
    """``1 / (1 + e**-x)``, at most 3 ulp; subnormal results may flush to zero."""
    return k.const(1.0, x.type) / (exp(k, -x) + 1.0)


def tanh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic tangent, at most 4 ulp; odd, exactly +-1 beyond 20, keeps -0."""
    size = k.unary("fabs", x)
    doubled = _expm1_bounded(k, k.select(size > 20.0, k.const(40.0, x.type), size + size))
    ratio = k.select(size < 2.0**-54, size, doubled / (doubled + 2.0))
    return k.binary("copysign", ratio, x)


def erf(k: KernelBuilder, x: Val) -> Val:
    """Error function, at most 4 ulp; odd, exactly +-1 beyond 6.

    Maclaurin's series below 1, elsewhere ``1 - exp(-x**2) * p(t) / (1 + x)`` with t the image of x
    under the fraction ``(x - 3) / (x + 3)`` (M. M. Shepherd and J. G. Laframboise, 1981).
    """
    size = k.unary("fabs", x)
    square = size * size
    near = polynomial(k, square, _ERF) * size
    held = k.select(size > 6.0, k.const(6.0, x.type), size)
    t = (held - 3.0) / (held + 3.0)
    far = 1.0 - exp(k, -(held * held)) * polynomial(k, t, _ERFC) / (held + 1.0)
    return k.binary("copysign", k.select(size < 1.0, near, far), x)


def _sine_cosine(k: KernelBuilder, x: Val) -> tuple[Val, Val, Val]:
    """(quadrant as int64, sine, cosine of what is left after taking out quarter turns)."""
    shifted = k.fma(x, k.const(2 / math.pi, x.type), k.const(_MAGIC, x.type))
    turns = shifted - _MAGIC
    rest = x
    for piece in _HALF_PI:
        rest = k.fma(turns, k.const(-piece, x.type), rest)
    square = rest * rest
    sine = k.fma(polynomial(k, square, _SIN) * square, rest, rest)
    cosine = k.fma(polynomial(k, square, _COS), square * square, 1.0 - square * 0.5)
    return k.bitcast(shifted, like(x.type, I64)), sine, cosine


def _quadrant(k: KernelBuilder, quadrant: Val, sine: Val, cosine: Val) -> Val:
    """Sine in the given quadrant."""
    value = k.select((quadrant & 1).differs(0), cosine, sine)
    return k.select((quadrant & 2).differs(0), -value, value)


def sin(k: KernelBuilder, x: Val) -> Val:
    """Sine for ``|x| < 2**20``, within 2**-51; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    return k.select(x.equals(0.0), x, _quadrant(k, quadrant, sine, cosine))


def cos(k: KernelBuilder, x: Val) -> Val:
    """Cosine for ``|x| < 2**20``, within 2**-51; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    return _quadrant(k, quadrant + 1, sine, cosine)


def sine_cosine(k: KernelBuilder, x: Val) -> tuple[Val, Val]:
    """Sine and cosine for ``|x| < 2**20``, each within 2**-51; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    return _quadrant(k, quadrant, sine, cosine), _quadrant(k, quadrant + 1, sine, cosine)


def tan(k: KernelBuilder, x: Val) -> Val:
    """Tangent for ``|x| < 2**20``; beyond that the phase is lost; NaN at inf."""
    quadrant, sine, cosine = _sine_cosine(k, x)
    over = _quadrant(k, quadrant, sine, cosine) / _quadrant(k, quadrant + 1, sine, cosine)
    return k.select(x.equals(0.0), x, over)


def power(k: KernelBuilder, x: Val, y: Val) -> Val:
    """``x**y``, at most 8 ulp (without fused multiply-add, 1e-13 relative); special cases of C99.

    The logarithm is a sum of two numbers, because its error is multiplied by the exponent's size
    (T. J. Dekker, 1971).
    """
    kind = x.type
    size = k.unary("fabs", x)
    exponent, mantissa = _log_parts(k, size)
    f = mantissa - 1.0
    below = f + 2.0
    s = f / below
    s_low = (k.fma(-s, below, f) - s * (f - (below - 2.0))) / below
    square = s * s
    tail = k.fma(polynomial(k, square, _LOG) * square, s, s_low * 2.0)
    tail = k.fma(exponent, k.const(_LN2_LOW, kind), tail)
    first = exponent * _LN2_HIGH
    second = s * 2.0
    total = first + second
    shared = total - first
    lost = (first - (total - shared)) + (second - shared)
    high = total + (lost + tail)
    low = (total - high) + (lost + tail)
    product = y * high
    rest = k.fma(y, high, -product) + y * low
    # Factors beyond any result keep the exponential finite, and infinite where it must be.
    finite = k.unary("fabs", product) < 2000.0
    held = k.select(finite, product, k.binary("copysign", k.const(2000.0, kind), product))
    scale = exp(k, held)
    corrected = k.fma(scale, rest, scale)
    result = k.select(finite & (scale < math.inf), corrected, scale)
    falling, zero = y < 0.0, k.const(0.0, kind)
    unbounded = k.const(math.inf, kind)
    result = k.select(size.equals(0.0), k.select(falling, unbounded, zero), result)
    result = k.select(size.equals(math.inf), k.select(falling, zero, unbounded), result)
    far = k.unary("fabs", y).equals(math.inf)
    grows = (size > 1.0) ^ falling
    result = k.select(far, k.select(grows, unbounded, zero), result)
    result = k.select(x.differs(x) | y.differs(y), x + y, result)
    return _signed_power(k, x, y, result)


def _signed_power(k: KernelBuilder, x: Val, y: Val, result: Val) -> Val:
    """``x**y`` from ``|x|**y``: signs of odd powers, and powers that are always 1 or undefined."""
    kind = x.type
    integers = like(kind, I64)
    size, y_size = k.unary("fabs", x), k.unary("fabs", y)
    exact = y_size < 2.0**53
    whole = k.convert(k.select(exact, y, k.const(0.0, kind)), integers)
    is_integer = k.select(exact, k.convert(whole, kind).equals(y), y.equals(y))
    odd = k.select(exact, (whole & 1).differs(0), k.const(0, like(kind, ir.IntType(1))))
    negative = k.bitcast(x, integers) < 0
    result = k.select(negative & is_integer & odd, -result, result)
    undefined = (x < 0.0) & (size < math.inf) & (is_integer ^ 1)
    result = k.select(undefined, k.const(math.nan, kind), result)
    one = y.equals(0.0) | x.equals(1.0) | (size.equals(1.0) & y_size.equals(math.inf))
    return k.select(one, k.const(1.0, kind), result)

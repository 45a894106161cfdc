"""What each operation of the expression language does to registers.

An operation takes the kernel builder, the expression node (for data types) and its operands as
scalars or vectors of one lane count; a bool is one bit per lane. Integer arithmetic wraps; dividing
an integer by zero gives zero, as in numpy, since a trap would take the process down.
"""

from __future__ import annotations

import math as numbers
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from engine.codegen import inverse_math, math, wide_math
from engine.codegen.builder import F64, TYPES, KernelBuilder, Val, element, is_float
from engine.codegen.halves import HALVES, narrow, widen
from engine.codegen.math import like


class Node(Protocol):
    """The part of an expression that operations look at."""

    @property
    def dtype(self) -> str:
        """Data type of the result."""

    @property
    def args(self) -> Sequence[Any]:
        """Operands, each with a `dtype`, an `op` and for constants a `number`."""


Operation = Callable[[KernelBuilder, Node, Sequence[Val]], Val]


def _unsigned(dtype: str) -> bool:
    return dtype.startswith("uint") or dtype == "bool"


def _plain(name: str) -> Operation:
    def operation(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
        result: Val = getattr(args[0], name)(*args[1:])
        return result

    return operation


def _function(function: Callable[..., Val]) -> Operation:
    def operation(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
        return function(k, *args)

    return operation


def _by_width(narrow: Callable[..., Val], wide: Callable[..., Val]) -> Operation:
    """A function of float32 or of float64."""

    def operation(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
        return (wide if element(args[0].type) == F64 else narrow)(k, *args)

    return operation


def _compare(operator: str) -> Operation:
    def operation(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
        a, b = args
        return compare(k, operator, a, b, node.args[0].dtype)

    return operation


def compare(k: KernelBuilder, operator: str, a: Val, b: Val, dtype: str) -> Val:
    """Comparison under the signedness of `dtype`; false wherever a NaN takes part."""
    if is_float(a.type):
        return Val(k, k.b.fcmp_ordered(operator, a.v, b.v))
    call = k.b.icmp_unsigned if _unsigned(dtype) else k.b.icmp_signed
    return Val(k, call(operator, a.v, b.v))


def _extremum(operator: str, names: tuple[str, str]) -> Operation:
    """Smaller or larger operand; NaN where any operand is NaN."""

    def operation(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
        a, b = args
        if not is_float(a.type):
            return k.binary(names[_unsigned(node.dtype)], a, b)
        # The comparison is false for NaN, so each select yields its last operand for NaN.
        if _is_number(node.args[0]):
            return k.select(compare(k, operator, a, b, node.dtype), a, b)
        if _is_number(node.args[1]):
            return k.select(compare(k, operator, b, a, node.dtype), b, a)
        return k.select(a.differs(a), a, k.select(compare(k, operator, a, b, node.dtype), a, b))

    return operation


def _is_number(arg: Any) -> bool:
    return arg.op == "constant" and not numbers.isnan(arg.number)


def _divide(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    a, b = args
    if is_float(a.type):
        return a / b
    quotient, _ = _quotient_remainder(k, a, b, node.dtype)
    return quotient


def _quotient_remainder(k: KernelBuilder, a: Val, b: Val, dtype: str) -> tuple[Val, Val]:
    """Truncated division; (0, 0) by zero, and the wrapped negative by -1 (both would trap)."""
    zero, one = k.const(0, a.type), k.const(1, a.type)
    by_zero = b.equals(0)
    if _unsigned(dtype):
        divisor = k.select(by_zero, one, b)
        quotient, rest = Val(k, k.b.udiv(a.v, divisor.v)), Val(k, k.b.urem(a.v, divisor.v))
    else:
        by_minus_one = b.equals(-1)
        divisor = k.select(by_zero | by_minus_one, one, b)
        quotient, rest = Val(k, k.b.sdiv(a.v, divisor.v)), Val(k, k.b.srem(a.v, divisor.v))
        quotient = k.select(by_minus_one, -a, quotient)
    return k.select(by_zero, zero, quotient), rest


def _fmod(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    """C's fmod: the sign follows the dividend."""
    a, b = args
    if is_float(a.type):
        return Val(k, k.b.frem(a.v, b.v))
    return _quotient_remainder(k, a, b, node.dtype)[1]


def _mod(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    """Python's ``%``: the sign follows the divisor."""
    a, b = args
    rest = _fmod(k, node, args)
    if _unsigned(node.dtype):
        return rest
    zero = k.const(0, a.type)
    if is_float(a.type):
        wrong = rest.differs(0.0) & (compare(k, "<", rest, zero, node.dtype) ^ (b < zero))
    else:
        wrong = rest.differs(0) & ((rest ^ b) < zero)
    return k.select(wrong, rest + b, rest)


def _absolute(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    if is_float(x.type):
        return k.unary("fabs", x)
    return x if _unsigned(node.dtype) else k.select(x < 0, -x, x)


def _sign(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    """-1, 0 or 1; NaN stays NaN."""
    (x,) = args
    one = k.const(1, x.type)
    positive = compare(k, ">", x, k.const(0, x.type), node.dtype)
    if _unsigned(node.dtype):
        return k.select(positive, one, x)
    return k.select(positive, one, k.select(x < 0, k.const(-1, x.type), x))


def _not(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    return Val(k, k.b.not_(args[0].v))


def _shift_left(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    """All bits leave where the distance reaches the width."""
    return _logical(k, args, "shl")


def _shift_right(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    """As `_shift_left`, copies of the sign coming in where there is one."""
    if _unsigned(node.dtype):
        return _logical(k, args, "lshr")
    a, b = args
    last = k.const(element(a.type).width - 1, b.type)
    distance = k.select(compare(k, "<", b, last, "uint64"), b, last)
    return Val(k, k.b.ashr(a.v, distance.v))


def _logical(k: KernelBuilder, args: Sequence[Val], name: str) -> Val:
    a, b = args
    width = element(a.type).width
    inside = compare(k, "<", b, k.const(width, b.type), "uint64")
    distance = k.select(inside, b, k.const(0, b.type))
    shifted = Val(k, getattr(k.b, name)(a.v, distance.v))
    return k.select(inside, shifted, k.const(0, a.type))


def _is_infinite(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    return k.unary("fabs", args[0]).equals(numbers.inf)


def _is_nan(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    return args[0].differs(args[0])


def _select(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    condition, a, b = args
    return k.select(condition, a, b)


def _cast(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    (x,) = args
    return convert(k, x, node.args[0].dtype, node.dtype)


def convert(k: KernelBuilder, x: Val, source: str, target: str) -> Val:
    """Conversion as onnxruntime's Cast does it on x86.

    Floats to integers truncate; NaN and what does not fit gives the most negative value of 32 or 64
    bits, narrower integers take the low bits of the 32-bit result. Anything but zero is true.
    """
    if source in HALVES:
        return convert(k, widen(k, x, source), "float32", target)
    if target in HALVES:
        return narrow(k, convert(k, x, source, "float32"), target)
    if target == "bool":
        return x.differs(0)
    kind = like(x.type, TYPES[target])
    if source == "bool":
        return k.convert(x, kind, signed=False)
    if not is_float(x.type) or is_float(kind):
        return k.convert(x, kind, signed=not _unsigned(source))
    if target == "uint64":
        half = k.const(2.0**63, x.type)
        high = x >= half
        low = _truncate(k, k.select(high, x - half, x), 64)
        return k.select(high, low ^ k.const(-(2**63), low.type), low)
    wide = _truncate(k, x, 64 if target in ("int64", "uint32") else 32)
    return k.convert(wide, kind)


def _truncate(k: KernelBuilder, x: Val, bits: int) -> Val:
    """Signed integer of 32 or 64 bits; the most negative one where `x` does not fit."""
    kind = like(x.type, TYPES[f"int{bits}"])
    limit = 2.0 ** (bits - 1)
    fits = (x >= -limit) & (x < limit)
    whole = k.convert(k.select(fits, x, k.const(0.0, x.type)), kind)
    return k.select(fits, whole, k.const(-(2 ** (bits - 1)), kind))


def _reciprocal(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    return k.const(1.0, args[0].type) / args[0]


def _square_root(k: KernelBuilder, node: Node, args: Sequence[Val]) -> Val:
    return k.unary("sqrt", args[0])


OPERATIONS: Final[dict[str, Operation]] = {
    "add": _plain("__add__"),
    "sub": _plain("__sub__"),
    "mul": _plain("__mul__"),
    "neg": _plain("__neg__"),
    "and": _plain("__and__"),
    "or": _plain("__or__"),
    "xor": _plain("__xor__"),
    "not": _not,
    "div": _divide,
    "mod": _mod,
    "fmod": _fmod,
    "min": _extremum("<", ("smin", "umin")),
    "max": _extremum(">", ("smax", "umax")),
    "equal": _compare("=="),
    "less": _compare("<"),
    "less_equal": _compare("<="),
    "greater": _compare(">"),
    "greater_equal": _compare(">="),
    "shift_left": _shift_left,
    "shift_right": _shift_right,
    "select": _select,
    "cast": _cast,
    "abs": _absolute,
    "sign": _sign,
    "isnan": _is_nan,
    "isinf": _is_infinite,
    "reciprocal": _reciprocal,
    "sqrt": _square_root,
    "round": _function(math.nearest),
    "floor": _function(math.floor),
    "ceil": _function(math.ceil),
    "exp": _by_width(math.exp, wide_math.exp),
    "expm1": _by_width(math.expm1, wide_math.expm1),
    "log": _by_width(math.log, wide_math.log),
    "log1p": _by_width(math.log1p, wide_math.log1p),
    "softplus": _by_width(math.softplus, wide_math.softplus),
    "sigmoid": _by_width(math.sigmoid, wide_math.sigmoid),
    "tanh": _by_width(math.tanh, wide_math.tanh),
    "erf": _by_width(math.erf, wide_math.erf),
    "sin": _by_width(math.sin, wide_math.sin),
    "cos": _by_width(math.cos, wide_math.cos),
    "tan": _by_width(math.tan, wide_math.tan),
    "pow": _by_width(math.power, wide_math.power),
    "asin": _function(inverse_math.asin),
    "acos": _function(inverse_math.acos),
    "atan": _function(inverse_math.atan),
    "sinh": _function(inverse_math.sinh),
    "cosh": _function(inverse_math.cosh),
    "asinh": _function(inverse_math.asinh),
    "acosh": _function(inverse_math.acosh),
    "atanh": _function(inverse_math.atanh),
}
"""Every operation by name."""

TRANSCENDENTAL: Final = frozenset(
    {"exp", "expm1", "log", "log1p", "softplus", "sigmoid", "tanh", "erf", "pow"}
    | {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"}
)
"""Operations on floats that take many instructions."""

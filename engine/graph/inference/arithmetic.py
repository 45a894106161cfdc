"""Arithmetic on known elements, as the ONNX operators define it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.graph.dims import Dim, maximum, minimum
from engine.graph.inference.elements import Real

TRUE: Final = Dim.of(1)
FALSE: Final = Dim.of(0)


def _divide(a: Dim, b: Dim) -> Dim | None:
    """Quotient rounded towards zero, as integer Div rounds."""
    if a.is_constant and b.is_constant and b.value:
        quotient = abs(a.value) // abs(b.value)
        return Dim.of(quotient if (a.value < 0) == (b.value < 0) else -quotient)
    return a // b if a.at_least(0) and b.at_least(0) else None


def _modulus(a: Dim, b: Dim) -> Dim | None:
    return None if b == 0 else a % b


def _power(a: Dim, b: Dim) -> Dim | None:
    if not b.is_constant or not 0 <= b.value <= 4:
        return None
    result = Dim.of(1)
    for _ in range(b.value):
        result = result * a
    return result


_INTEGER: Final[dict[str, Callable[[Dim, Dim], Dim | None]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divide,
    "Mod": _modulus,
    "Min": minimum,
    "Max": maximum,
    "Sum": operator.add,
    "Pow": _power,
}

_CONSTANT: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Sum": np.add,
    "Pow": np.power,
}


def _real(op: str, a: Real, b: Real) -> Real | None:
    left, right = a.constant, b.constant
    if left is not None and right is not None:
        function = _CONSTANT.get(op)
        if function is None or (op == "Div" and right == 0):
            return None
        with np.errstate(all="ignore"):
            return Real.of(function(np.float32(left), np.float32(right)))
    if op == "Mul":
        if left is not None:
            a, b, right = b, a, left
        if right is not None and a.whole:
            return Real(a.dim * b.dim) if b.whole else Real(a.dim, scale=right)
    if op == "Div" and right is not None and a.whole and b.whole and right > 0:
        return Real(a.dim, divisor=b.dim.value)
    if op in _INTEGER and op not in ("Div", "Pow") and a.whole and b.whole:
        found = _INTEGER[op](a.dim, b.dim)
        return None if found is None else Real(found)
    return None


def binary(op: str) -> Callable[[Any, Any], Any]:
    """Function of two elements for an arithmetic operator; it returns None for the unknown."""

    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, Dim) and isinstance(b, Dim):
            function = _INTEGER.get(op)
            return None if function is None else function(a, b)
        if isinstance(a, Real) and isinstance(b, Real):
            return _real(op, a, b)
        return None

    return apply


def nonzero(a: Dim) -> Dim:
    """1 where `a` is not 0, else 0."""
    if a.at_least(1) or (-a).at_least(1):
        return TRUE
    return minimum(a if a.at_least(0) else maximum(a, -a), 1)


def _less(a: Dim, b: Dim) -> Dim:
    difference = b - a
    if difference.at_least(1):
        return TRUE
    return FALSE if (-difference).at_least(0) else minimum(maximum(difference, 0), 1)


_COMPARISONS: Final[dict[str, Callable[[Dim, Dim], Dim]]] = {
    "Equal": lambda a, b: 1 - nonzero(a - b),
    "Less": _less,
    "Greater": lambda a, b: _less(b, a),
    "LessOrEqual": lambda a, b: 1 - _less(b, a),
    "GreaterOrEqual": lambda a, b: 1 - _less(a, b),
    "And": operator.mul,
    "Or": lambda a, b: 1 - (1 - a) * (1 - b),
    "Xor": lambda a, b: nonzero(a - b),
}


def comparison(op: str) -> Callable[[Any, Any], Any]:
    """Function of two elements for a comparison or boolean operator.

    What sizes decide is a dim that is 0 or 1; None for the unknown.
    """

    def apply(a: Any, b: Any) -> Any:
        if not isinstance(a, Dim) or not isinstance(b, Dim):
            return None
        return _COMPARISONS[op](a, b)

    return apply


def select(condition: Dim, then: Any, otherwise: Any) -> Any:
    """Element that Where takes: ``condition * then + (1 - condition) * otherwise``."""
    if condition.is_constant:
        return otherwise if condition == 0 else then
    if not isinstance(then, Dim) or not isinstance(otherwise, Dim):
        return None
    return otherwise + condition * (then - otherwise)


def unary(op: str) -> Callable[[Any], Any]:
    """Function of one element for an operator; it returns None for the unknown."""

    def apply(a: Any) -> Any:
        if isinstance(a, Dim):
            return _INTEGER_UNARY[op](a) if op in _INTEGER_UNARY else None
        if isinstance(a, Real):
            return _REAL_UNARY[op](a) if op in _REAL_UNARY else None
        return None

    return apply


def _sqrt(a: Real) -> Real | None:
    value = a.constant
    return None if value is None or value < 0 else Real.of(float(np.sqrt(np.float32(value))))


def _ceil(a: Real) -> Real | None:
    found = a.ceil()
    return None if found is None else Real(found)


def _round(a: Real) -> Real | None:
    if a.whole:
        return a
    value = a.constant
    return None if value is None else Real(Dim.of(round(value)))


_INTEGER_UNARY: Final[dict[str, Callable[[Dim], Dim | None]]] = {
    "Neg": operator.neg,
    "Abs": lambda a: a if a.at_least(0) else -a if (-a).at_least(0) else None,
    "Relu": lambda a: maximum(a, 0),
    "Sign": lambda a: Dim.of((a.value > 0) - (a.value < 0)) if a.is_constant else None,
    "Not": lambda a: 1 - a,
}

_REAL_UNARY: Final[dict[str, Callable[[Real], Real | None]]] = {
    "Neg": lambda a: Real(-a.dim) if a.whole else None,
    "Floor": lambda a: Real(a.floor()),
    "Ceil": _ceil,
    "Round": _round,
    "Sqrt": _sqrt,
}


def convert(a: Any, target: np.dtype[Any]) -> Any:
    """Element after Cast, None where the conversion is not expressible."""
    if isinstance(a, Dim):
        if target.kind in "iu":
            limits = np.iinfo(target)
            inside = not a.is_constant or limits.min <= a.value <= limits.max
            return a if inside and target.itemsize >= 4 else None
        if target.kind == "b":
            return nonzero(a)
        return Real(a) if target in (np.float32, np.float64) else None
    if isinstance(a, Real):
        if target in (np.float32, np.float64):
            return a
        if target.kind in "iu" and target.itemsize >= 4:
            value = a.constant
            if value is not None:
                return Dim.of(math.trunc(value))
            return a.floor() if a.dim.at_least(0) and a.scale >= 0 else None
    return None

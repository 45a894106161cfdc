"""The expression of every element-wise ONNX operator.

`from_node` answers with an expression whose input ``i`` is the node's input ``i``, or with the
reason why there is none. Constants of one element become part of the expression. 16-bit floats are
computed with in float32 and each operator's result is rounded, as its data type says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from engine.codegen.builder import TYPES
from engine.codegen.expression import FLOATS, Expr
from engine.codegen.halves import HALVES
from engine.codegen.scalar_operations import TRANSCENDENTAL
from engine.graph.ir import Node, Value


class NoExpressionError(Exception):
    """A node is not element-wise in a form that expressions can say; the text is the reason."""


Rule = Callable[[Node, list[Expr]], Expr]
_RULES: Final[dict[str, Rule]] = {}


def from_node(node: Node) -> Expr | str:
    """Expression of a node, or the reason why it has none."""
    rule = _RULES.get(node.key)
    if rule is None:
        return f"{node.key} is not an element-wise operator with an expression"
    try:
        operands = [_operand(node, i, value) for i, value in enumerate(node.inputs)]
        result = rule(node, operands)
        produced = node.outputs[0].dtype
        if produced is not None and produced.name in HALVES:
            result = result.cast(produced.name)
        if produced is not None and result.dtype != produced.name:
            raise NoExpressionError(f"its result is {result.dtype}, not {produced.name}")
        for part in result.nodes():
            used = part.args[0].dtype if part.args else part.dtype
            if part.op in TRANSCENDENTAL and used not in FLOATS:
                raise NoExpressionError(f"{part.op} exists for floats only, not {used}")
    except (NoExpressionError, ValueError) as error:
        return f"{node.key}: {error}"
    return result


def _operand(node: Node, index: int, value: Value | None) -> Expr:
    if value is None:
        # Omitted optional inputs are looked at by their rules through `node.input`.
        return Expr.constant(0, "float32")
    if value.dtype is None:
        raise NoExpressionError(f"the data type of input {index} is unknown")
    dtype = value.dtype.name
    if dtype not in TYPES:
        raise NoExpressionError(f"input {index} is {dtype}")
    wide = "float32" if dtype in HALVES else dtype
    if value.data is not None and value.data.size == 1:
        return Expr.constant(value.data.reshape(()).item(), wide)
    return Expr.input(index, dtype).cast(wide)


def _rule(*keys: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(keys, function))
        return function

    return add


def _number(node: Node, name: str, default: float) -> float:
    return float(node.attribute(name, default))


def _same(x: Expr, value: float) -> Expr:
    """Constant of the data type of `x`."""
    return Expr.constant(value, x.dtype)


def _float_input(x: Expr) -> None:
    if x.dtype not in FLOATS:
        raise NoExpressionError(f"input 0 is {x.dtype}, floats are needed")


def _relu(x: Expr) -> Expr:
    # The constant first: then one instruction keeps NaN.
    return Expr.of("max", _same(x, 0), x)


def _clip(x: Expr, low: Expr, high: Expr) -> Expr:
    return Expr.of("min", high, Expr.of("max", low, x))


def _negative(x: Expr) -> Expr:
    return Expr.of("less", x, _same(x, 0))


_UNARY: Final = {
    "Abs": "abs",
    "Neg": "neg",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Erf": "erf",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "Softplus": "softplus",
    "Not": "not",
    "IsNaN": "isnan",
}


@_rule(*_UNARY)
def _unary(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    if node.op not in ("Abs", "Neg", "Sign", "Not"):
        _float_input(x)
    return Expr.of(_UNARY[node.op], x)


@_rule("Identity")
def _identity(node: Node, operands: list[Expr]) -> Expr:
    return operands[0]


@_rule("BitwiseNot")
def _bitwise_not(node: Node, operands: list[Expr]) -> Expr:
    return Expr.of("not", operands[0])


@_rule("IsInf")
def _is_inf(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    _float_input(x)
    if node.attribute("detect_positive", 1) and node.attribute("detect_negative", 1):
        return Expr.of("isinf", x)
    if node.attribute("detect_positive", 1):
        return Expr.of("equal", x, _same(x, math.inf))
    if node.attribute("detect_negative", 1):
        return Expr.of("equal", x, _same(x, -math.inf))
    return Expr.of("less", x, x)


@_rule("Cast", "CastLike")
def _cast(node: Node, operands: list[Expr]) -> Expr:
    target = node.outputs[0].dtype
    if target is None or target.name not in TYPES:
        raise NoExpressionError(f"there is no native conversion to {target}")
    return operands[0].cast(target.name)


@_rule("Relu")
def _relu_rule(node: Node, operands: list[Expr]) -> Expr:
    return _relu(operands[0])


@_rule("LeakyRelu")
def _leaky_relu(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    scaled = Expr.of("mul", x, _same(x, _number(node, "alpha", 0.01)))
    return Expr.of("select", _negative(x), scaled, x)


@_rule("PRelu")
def _prelu(node: Node, operands: list[Expr]) -> Expr:
    x, slope = operands
    if node.version < 7 and slope.op != "constant":
        raise NoExpressionError("before opset 7 the slope follows the channel axis")
    return Expr.of("select", _negative(x), Expr.of("mul", x, slope), x)


@_rule("ThresholdedRelu")
def _thresholded_relu(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    above = Expr.of("greater", x, _same(x, _number(node, "alpha", 1.0)))
    return Expr.of("select", above, x, _same(x, 0))


@_rule("Elu")
def _elu(node: Node, operands: list[Expr]) -> Expr:
    return _elu_of(operands[0], _number(node, "alpha", 1.0))


def _elu_of(x: Expr, alpha: float) -> Expr:
    below = Expr.of("expm1", x)
    if alpha != 1.0:
        below = Expr.of("mul", below, _same(x, alpha))
    return Expr.of("select", _negative(x), below, x)


@_rule("Selu")
def _selu(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    alpha = _number(node, "alpha", 1.67326319217681884765625)
    gamma = _number(node, "gamma", 1.05070102214813232421875)
    return Expr.of("mul", _elu_of(x, alpha), _same(x, gamma))


@_rule("Celu")
def _celu(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    alpha = _number(node, "alpha", 1.0)
    scaled = x if alpha == 1.0 else Expr.of("div", x, _same(x, alpha))
    below = Expr.of("mul", Expr.of("expm1", scaled), _same(x, alpha))
    return Expr.of("select", _negative(x), below, x)


@_rule("HardSigmoid")
def _hard_sigmoid(node: Node, operands: list[Expr]) -> Expr:
    alpha, beta = _number(node, "alpha", 0.2), _number(node, "beta", 0.5)
    return _hard_sigmoid_of(operands[0], alpha, beta)


def _hard_sigmoid_of(x: Expr, alpha: float, beta: float) -> Expr:
    line = Expr.of("add", Expr.of("mul", x, _same(x, alpha)), _same(x, beta))
    return _clip(line, _same(x, 0), _same(x, 1))


@_rule("HardSwish")
def _hard_swish(node: Node, operands: list[Expr]) -> Expr:
    return Expr.of("mul", operands[0], _hard_sigmoid_of(operands[0], 1 / 6, 0.5))


@_rule("Softsign")
def _softsign(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    return Expr.of("div", x, Expr.of("add", Expr.of("abs", x), _same(x, 1)))


@_rule("Mish")
def _mish(node: Node, operands: list[Expr]) -> Expr:
    """``x * tanh(log(1 + e**x))`` is ``x * n / (n + 2)`` with ``n = e**x * (e**x + 2)``."""
    x = operands[0]
    e = Expr.of("exp", Expr.of("min", _same(x, 20), x))
    n = Expr.of("mul", e, Expr.of("add", e, _same(x, 2)))
    return Expr.of("mul", x, Expr.of("div", n, Expr.of("add", n, _same(x, 2))))


@_rule("packhorse.Silu", "Swish")
def _silu(node: Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    alpha = _number(node, "alpha", 1.0)
    inner = x if alpha == 1.0 else Expr.of("mul", x, _same(x, alpha))
    return Expr.of("mul", x, Expr.of("sigmoid", inner))


@_rule("Gelu")
def _gelu(node: Node, operands: list[Expr]) -> Expr:
    kind = node.attribute("approximate", "none")
    return gelu_tanh(operands[0]) if kind == "tanh" else gelu(operands[0])


def gelu(x: Expr) -> Expr:
    """``x/2 * (1 + erf(x / sqrt(2)))``."""
    phi = Expr.of("erf", Expr.of("mul", x, _same(x, math.sqrt(0.5))))
    half = Expr.of("mul", x, _same(x, 0.5))
    return Expr.of("mul", half, Expr.of("add", phi, _same(x, 1)))


def gelu_tanh(x: Expr) -> Expr:
    """``x/2 * (1 + tanh(u))`` with ``u = sqrt(2/pi) * (x + 0.044715 x**3)``, as x * sigmoid(2u)."""
    scale = 2 * math.sqrt(2 / math.pi)
    square = Expr.of("mul", x, x)
    inner = Expr.of("add", Expr.of("mul", square, _same(x, 0.044715 * scale)), _same(x, scale))
    return Expr.of("mul", x, Expr.of("sigmoid", Expr.of("mul", x, inner)))


@_rule("Clip")
def _clip_rule(node: Node, operands: list[Expr]) -> Expr:
    x = result = operands[0]
    low = high = None
    if node.version < 11:
        low, high = node.attribute("min"), node.attribute("max")
        low = None if low is None else _same(x, float(low))
        high = None if high is None else _same(x, float(high))
    else:
        low = operands[1] if node.input(1) is not None else None
        high = operands[2] if node.input(2) is not None else None
    for bound, operator in ((low, "max"), (high, "min")):
        if bound is not None:
            if x.dtype in FLOATS and bound.op == "constant" and math.isnan(bound.number):
                raise NoExpressionError("a bound is NaN")
            result = Expr.of(operator, bound, result)
    return result


_BINARY: Final = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "and",
    "BitwiseOr": "or",
    "BitwiseXor": "xor",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
}


@_rule(*_BINARY)
def _binary(node: Node, operands: list[Expr]) -> Expr:
    _new_broadcast(node, operands)
    return Expr.of(_BINARY[node.op], *operands)


def _new_broadcast(node: Node, operands: list[Expr]) -> None:
    if node.version < 7 and node.attribute("broadcast", 0) and node.attribute("axis") is not None:
        raise NoExpressionError("it broadcasts along `axis`, as only opsets before 7 do")


_REPEATED: Final = {"Min": "min", "Max": "max", "Sum": "add", "Mean": "add"}


@_rule(*_REPEATED)
def _repeated(node: Node, operands: list[Expr]) -> Expr:
    result = operands[0]
    for operand in operands[1:]:
        result = Expr.of(_REPEATED[node.op], result, operand)
    if node.op == "Mean":
        _float_input(result)
        result = Expr.of("div", result, _same(result, len(operands)))
    return result


@_rule("Mod")
def _mod(node: Node, operands: list[Expr]) -> Expr:
    return Expr.of("fmod" if node.attribute("fmod", 0) else "mod", *operands)


@_rule("BitShift")
def _bit_shift(node: Node, operands: list[Expr]) -> Expr:
    direction = "shift_left" if node.attribute("direction") == "LEFT" else "shift_right"
    return Expr.of(direction, *operands)


@_rule("Where")
def _where(node: Node, operands: list[Expr]) -> Expr:
    return Expr.of("select", *operands)


@_rule("Pow")
def _pow(node: Node, operands: list[Expr]) -> Expr:
    _new_broadcast(node, operands)
    x, y = operands
    if y.op == "constant":
        found = _constant_power(x, float(y.number))
        if found is not None:
            return found
    if x.dtype in FLOATS:
        return Expr.of("pow", x, y.cast(x.dtype))
    if y.dtype not in FLOATS:
        return _integer_power(x, y.cast(x.dtype))
    power = Expr.of("pow", x.cast("float64"), y.cast("float64"))
    # Conversion to an integer truncates: a power that should be whole must not lie below.
    whole = Expr.of("round", power)
    distance = Expr.of("abs", Expr.of("sub", power, whole))
    limit = Expr.of("mul", Expr.of("abs", power), _same(power, 2.0**-46))
    near = Expr.of("less_equal", distance, limit)
    return Expr.of("select", near, whole, power).cast(x.dtype)


_EXPONENT_BITS: Final = 6
"""Bits of an exponent of integers: from 64 on only -1, 0 and 1 have powers that fit."""


def _integer_power(x: Expr, y: Expr) -> Expr:
    """``x**y`` of integers, exact where it fits, by squaring (D. E. Knuth, The Art of Computer
    Programming, volume 2, section 4.6.3); of a negative exponent truncated."""
    one, zero = _same(x, 1), _same(x, 0)
    last = 1 << _EXPONENT_BITS
    odd = Expr.of("and", y, one)
    large = Expr.of("greater_equal", y, _same(x, last))
    exponent = Expr.of("select", large, Expr.of("add", odd, _same(x, last - 2)), y)
    result, base = one, x
    for bit in range(_EXPONENT_BITS):
        mask = _same(x, 1 << bit)
        taken = Expr.of("equal", Expr.of("and", exponent, mask), mask)
        result = Expr.of("select", taken, Expr.of("mul", result, base), result)
        if bit < _EXPONENT_BITS - 1:
            base = Expr.of("mul", base, base)
    if x.dtype.startswith("u"):
        return result
    # 1 divided by a power of +-1 is that power; by any other, less than 1.
    unit = Expr.of("equal", Expr.of("mul", x, x), one)
    signed = Expr.of("select", Expr.of("equal", odd, one), x, one)
    inverse = Expr.of("select", unit, signed, zero)
    return Expr.of("select", _negative(y), inverse, result)


def _constant_power(x: Expr, exponent: float) -> Expr | None:
    """Cheap forms of ``x**exponent`` that keep every special case."""
    if exponent == 0:
        return _same(x, 1)
    if exponent == 1:
        return x
    if exponent == 2:
        return Expr.of("mul", x, x)
    if exponent == 3:
        return Expr.of("mul", Expr.of("mul", x, x), x)
    if x.dtype not in FLOATS:
        return None
    if exponent == -1:
        return Expr.of("reciprocal", x)
    if abs(exponent) == 0.5:
        # Adding +0 turns sqrt(-0) = -0 into +0; only -inf differs from the square root.
        root = Expr.of("sqrt", Expr.of("add", x, _same(x, 0)))
        infinite = Expr.of("equal", x, _same(x, -math.inf))
        root = Expr.of("select", infinite, _same(x, math.inf), root)
        return root if exponent > 0 else Expr.of("reciprocal", root)
    return None


ELEMENTWISE_OPERATORS: Final = tuple(_RULES)
"""Keys of the operators that `from_node` knows."""

"""Matching of arithmetic that exporters write in many orders.

Two views of the graph around a value x make matching independent of the writing: the polynomial in
x that a value is, and the products with constants and x that a value goes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.graph.ir import Node, Value
from engine.graph.passes.rewrite import Rewriter, constant_array, scalar

Polynomial = dict[int, float]
"""Coefficient per power of x; no zero coefficients."""

_ARITHMETIC: Final = frozenset({"Add", "Div", "Mul", "Neg", "Pow", "Sub"})
_MAX_DEPTH: Final = 8
_MAX_DEGREE: Final = 4


def close(value: float | None, expected: float) -> bool:
    """Whether a constant is `expected` up to the precision that exporters write."""
    return value is not None and abs(value - expected) <= 1e-4 * abs(expected)


def same(polynomial: Polynomial | None, expected: Polynomial) -> bool:
    """Whether a polynomial has the expected coefficients, up to the same precision."""
    return (
        polynomial is not None
        and polynomial.keys() == expected.keys()
        and all(close(polynomial[power], factor) for power, factor in expected.items())
    )


def polynomial(value: Value | None, x: Value, depth: int = _MAX_DEPTH) -> Polynomial | None:
    """Polynomial in x that a value is, None where it is something else.

    Follows Add, Sub, Mul, Div by a constant, Neg and Pow by a small natural number; constants must
    have one element.
    """
    if value is None or depth == 0:
        return None
    if value is x:
        return {1: 1.0}
    if value.is_constant:
        number = scalar(value)
        return None if number is None else _trimmed({0: float(number)})
    node = value.producer
    if node is None or node.domain or node.op not in _ARITHMETIC:
        return None
    first = polynomial(node.inputs[0], x, depth - 1)
    if first is None:
        return None
    if node.op == "Neg":
        return {power: -factor for power, factor in first.items()}
    second = polynomial(node.inputs[1], x, depth - 1)
    if second is None:
        return None
    if node.op == "Add":
        return _sum(first, second, 1.0)
    if node.op == "Sub":
        return _sum(first, second, -1.0)
    if node.op == "Mul":
        return _product(first, second)
    if second.keys() != {0}:
        return None
    if node.op == "Div":
        return {power: factor / second[0] for power, factor in first.items()}
    return _power(first, second[0])


def products(rewriter: Rewriter, value: Value, x: Value) -> Iterator[tuple[Node, float, int]]:
    """Successive Mul and Div nodes that a value goes through, alone.

    Yields per node: the node, the constant factor so far, and how many factors x so far. Stops at
    the first other reader, second reader or other factor.
    """
    factor, count = 1.0, 0
    while True:
        node = rewriter.only_reader(value)
        if node is None or node.domain or node.op not in ("Mul", "Div"):
            return
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        found = polynomial(other, x)
        if found is None or len(found) != 1 or (node.op == "Div" and node.inputs[0] is not value):
            return
        power, coefficient = next(iter(found.items()))
        if node.op == "Mul" and power in (0, 1):
            factor, count = factor * coefficient, count + power
        elif node.op == "Div" and power == 0:
            factor /= coefficient
        else:
            return
        value = node.outputs[0]
        yield node, factor, count


def other_operand(node: Node, constant: float) -> Value | None:
    """The other operand of a commutative node with a given constant operand."""
    for index in (0, 1):
        if close(scalar(node.inputs[index]), constant):
            return node.inputs[1 - index]
    return None


def only_reader_of(rewriter: Rewriter, value: Value, *ops: str) -> Node | None:
    """The only reader of a value where it is one of the given standard operators."""
    node = rewriter.only_reader(value)
    return node if node is not None and not node.domain and node.op in ops else None


def keeps_shape(node: Node, x: Value) -> bool:
    """Whether a node's output is proven to have the shape and data type of x."""
    result = node.outputs[0]
    return (
        x.shape is not None
        and result.shape == x.shape
        and (result.dtype is None or result.dtype == x.dtype)
    )


def original(value: Value) -> Value:
    """The value that one is a copy of, by nodes Identity, or itself.

    A result that leaves a graph twice, as a state and stacked, has a copy that no pass can remove.
    """
    while value.producer is not None and value.producer.key == "Identity":
        copied = value.producer.inputs[0]
        assert copied is not None
        value = copied
    return value


def sources(value: Value | None, depth: int = _MAX_DEPTH) -> Iterator[Value]:
    """Values that a value is computed from by arithmetic, nearest first, constants excepted."""
    level = [value]
    seen: set[int] = set()
    for _ in range(depth):
        following: list[Value | None] = []
        for item in level:
            if item is None or constant_array(item) is not None or id(item) in seen:
                continue
            seen.add(id(item))
            yield item
            if item.producer is not None and item.producer.op in _ARITHMETIC:
                following.extend(item.producer.inputs)
        level = following


def _trimmed(polynomial: Polynomial) -> Polynomial:
    return {power: factor for power, factor in polynomial.items() if factor != 0.0}


def _sum(first: Polynomial, second: Polynomial, sign: float) -> Polynomial:
    total = dict(first)
    for power, factor in second.items():
        total[power] = total.get(power, 0.0) + sign * factor
    return _trimmed(total)


def _product(first: Polynomial, second: Polynomial) -> Polynomial | None:
    total: Polynomial = {}
    for power, factor in first.items():
        for other, coefficient in second.items():
            total[power + other] = total.get(power + other, 0.0) + factor * coefficient
    return _trimmed(total) if max(total, default=0) <= _MAX_DEGREE else None


def _power(base: Polynomial, exponent: float) -> Polynomial | None:
    if exponent not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = base
    for _ in range(int(exponent) - 1):
        result = _product(result, base) if result is not None else None
    return result

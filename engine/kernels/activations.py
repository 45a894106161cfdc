"""Activation functions that recurrent cells may name, in the kernel language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from engine.codegen.builder import I32, KernelBuilder, Val
from engine.codegen.math import exp, like, softplus, tanh

DEFAULTS: Final[dict[str, tuple[float | None, float | None]]] = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0, None),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None),
    "Relu": (None, None),
    "ScaledTanh": (1.0, 1.0),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (1.0, None),
}
"""Default alpha and beta of each activation; None where it takes none."""


_FAR: Final = 28.0 / math.log(2.0)
"""Exponents of two are held to +-40, powers of e to +-28: products of three terms 1 + exp(28) are
finite, and what a sigmoid or tanh misses beyond it is below 1e-12."""

_BIASED: Final = 1.5 * 2.0**23 + 127
"""Added to a number, it leaves the nearest integer in the low bits, as the exponent of a float."""

_POWER: Final = (
    1.0,
    0.6931470036506653,
    0.24022242426872253,
    0.05550733581185341,
    0.009671512991189957,
    0.001326472731307149,
)
"""2**r for r in +-1/2, lowest power first, exact at zero, relative error at most 1.1e-7:
least squares over Chebyshev points, weighted anew by the errors until these are even."""


def falling(k: KernelBuilder, terms: Sequence[tuple[Val, float]]) -> list[Val]:
    """``exp(-scale * x)`` of every ``(x, scale)``, with exponents held to +-28; NaN stays NaN.

    One operation of all terms follows the other: a core looks only some hundred instructions
    ahead, and terms in turn would be chains of instructions that wait for each other.
    """
    kind = terms[0][0].type
    high, low, magic = (k.const(value, kind) for value in (_FAR, -_FAR, _BIASED))
    y = [x * (-scale / math.log(2.0)) for x, scale in terms]
    y = [k.select(high < value, high, value) for value in y]
    y = [k.select(low > value, low, value) for value in y]
    shifted = [value + magic for value in y]
    y = [value - (whole - magic) for value, whole in zip(y, shifted, strict=True)]
    power = [k.const(_POWER[-1], kind) for _ in y]
    for coefficient in reversed(_POWER[:-1]):
        term = k.const(coefficient, kind)
        power = [k.fma(value, r, term) for value, r in zip(power, y, strict=True)]
    bits = [k.bitcast(whole, like(kind, I32)) << 23 for whole in shifted]
    return [value * k.bitcast(whole, kind) for value, whole in zip(power, bits, strict=True)]


def joined_cell(k: KernelBuilder, i: Val, f: Val, c: Val, before: Val) -> Val:
    """``sigmoid(f) * before + sigmoid(i) * tanh(c)`` over one denominator: one division for three.

    With I, F, C the exponentials of -i, -f and -2c it is
    ``(before (1 + I)(1 + C) + (1 - C)(1 + F)) / ((1 + F)(1 + I)(1 + C))``.
    """
    ei, ef, ec = falling(k, [(i, 1.0), (f, 1.0), (c, 2.0)])
    both = (ei + 1.0) * (ec + 1.0)
    forget = ef + 1.0
    return k.fma(before, both, (1.0 - ec) * forget) / (both * forget)


def joined_output(k: KernelBuilder, o: Val, cell: Val) -> Val:
    """``sigmoid(o) * tanh(cell)`` with one division."""
    eo, ec = falling(k, [(o, 1.0), (cell, 2.0)])
    return (1.0 - ec) / ((eo + 1.0) * (ec + 1.0))


def joined_update(k: KernelBuilder, update: Val, hidden: Val, before: Val) -> Val:
    """``z * before + (1 - z) * tanh(hidden)`` with z the sigmoid of `update`, by one division.

    With Z and H the exponentials of -update and -2 hidden it is
    ``(before (1 + H) + Z (1 - H)) / ((1 + Z)(1 + H))``.
    """
    ez, eh = falling(k, [(update, 1.0), (hidden, 2.0)])
    wide = eh + 1.0
    return k.fma(before, wide, ez * (1.0 - eh)) / ((ez + 1.0) * wide)


def gate_sigmoid(k: KernelBuilder, x: Val) -> Val:
    """Logistic function with an absolute error below 1e-7."""
    (e,) = falling(k, [(x, 1.0)])
    return 1.0 / (e + 1.0)


def gate_tanh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic tangent with an absolute error below 2e-7, in half of `tanh`'s work.

    What it scales in a cell is at most a few times larger, so digits near zero are not missed.
    """
    (e,) = falling(k, [(x, 2.0)])
    return (1.0 - e) / (e + 1.0)


def activation(k: KernelBuilder, name: str, x: Val, alpha: float, beta: float) -> Val:
    """Activation `name` of a float32 vector."""
    if name == "Sigmoid":
        return gate_sigmoid(k, x)
    if name == "Tanh":
        return gate_tanh(k, x)
    if name == "Relu":
        return k.select(x > 0.0, x, 0.0)
    if name == "Affine":
        return x * alpha + beta
    if name == "Elu":
        return k.select(x >= 0.0, x, (exp(k, x) - 1.0) * alpha)
    if name == "HardSigmoid":
        line = x * alpha + beta
        line = k.select(line < 0.0, 0.0, line)
        return k.select(line > 1.0, 1.0, line)
    if name == "LeakyRelu":
        return k.select(x >= 0.0, x, x * alpha)
    if name == "ScaledTanh":
        return tanh(k, x * beta) * alpha
    if name == "Softplus":
        return softplus(k, x)
    if name == "Softsign":
        return x / (k.unary("fabs", x) + 1.0)
    assert name == "ThresholdedRelu", name
    return k.select(x > alpha, x, 0.0)

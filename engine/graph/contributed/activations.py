"""Activations with a bias: ``f(x + b)``."""

from __future__ import annotations

from typing import Any

from engine.graph.body import Body, Unsupported
from engine.graph.contributed.registry import expands
from engine.graph.ir import Value

_DEFAULTS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": (("alpha", 0.01),),
    "ThresholdedRelu": (("alpha", 1.0),),
    "Elu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
    "Selu": (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
}


def activate(b: Body, value: Value, name: str, parameters: dict[str, float]) -> Value:
    """The activation `name` of a fused operator, "" for none; `parameters` by ONNX's names."""
    if not name:
        return value
    if name == "HardSwish":
        return b("HardSwish", value)
    if name == "Clip":
        return b("Clip", value, b.like(parameters["min"], value), b.like(parameters["max"], value))
    if name not in _DEFAULTS:
        raise Unsupported(f"its activation {name!r} is unknown")
    wanted: dict[str, Any] = {key: parameters.get(key, default) for key, default in _DEFAULTS[name]}
    return b(name, value, **wanted)


@expands("Gelu", "BiasGelu")
def _gelu(b: Body) -> None:
    """``Gelu(A + B)``, exact."""
    b.give(0, b("Gelu", b.add(b.input(0), b.optional(1))))


@expands("FastGelu")
def _fast_gelu(b: Body) -> None:
    """``Gelu(X + bias)`` by tanh."""
    b.give(0, b("Gelu", b.add(b.input(0), b.optional(1)), approximate="tanh"))


@expands("QuickGelu")
def _quick_gelu(b: Body) -> None:
    """``X * sigmoid(alpha * X)``."""
    x = b.input(0)
    scaled = b("Mul", x, b.like(b.attribute("alpha", 1.702), x))
    b.give(0, b("Mul", x, b("Sigmoid", scaled)))


@expands("BiasAdd")
def _bias_add(b: Body) -> None:
    """``X + bias + skip``."""
    b.give(0, b.add(b.input(0), b.input(1), b.input(2)))


@expands("BiasSplitGelu")
def _bias_split_gelu(b: Body) -> None:
    """``l * Gelu(r)`` of the two halves of ``X + bias`` along the last axis."""
    left, right = b.several("Split", 2, b.add(b.input(0), b.input(1)), axis=-1, num_outputs=2)
    b.give(0, b("Mul", left, b("Gelu", right)))

"""Products and convolutions with transposes, scales, residuals or activations fused into them."""

from __future__ import annotations

from typing import Any, Final

from engine.graph.body import Body, rank_of
from engine.graph.contributed.activations import activate
from engine.graph.contributed.registry import expands
from engine.graph.ir import Value

_WINDOW: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@expands("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation")
def _fused_matmul(b: Body) -> None:
    """``f(alpha * A' @ B')``: ' swaps the last two axes, or moves the first behind the batch."""
    left = _turned(b, b.input(0), "A")
    right = _turned(b, b.input(1), "B")
    y = b("MatMul", left, right)
    alpha = b.attribute("alpha", 1.0)
    if alpha != 1.0:
        y = b("Mul", y, b.like(alpha, y))
    b.give(0, activate(b, y, b.attribute("activation", ""), _parameters(b)))


def _turned(b: Body, value: Value, side: str) -> Value:
    rank = rank_of(value)
    order = list(range(rank))
    if b.attribute(f"transBatch{side}", 0) and rank > 2:
        order = [*range(1, rank - 1), 0, rank - 1]
    if b.attribute(f"trans{side}", 0) and rank > 1:
        order = [*order[:-2], order[-1], order[-2]]
    return value if order == list(range(rank)) else b.transpose(value, *order)


def _parameters(b: Body) -> dict[str, float]:
    """Parameters of the activation of a fused product."""
    names = ("alpha", "beta", "gamma")
    given = {name: b.attribute(f"activation_{name}") for name in names}
    return {name: value for name, value in given.items() if value is not None}


@expands("FusedGemm")
def _fused_gemm(b: Body) -> None:
    """``f(Gemm(A, B, C))``."""
    names = ("alpha", "beta", "transA", "transB")
    attributes = {n: b.node.attributes[n] for n in names if n in b.node.attributes}
    y = b("Gemm", b.input(0), b.input(1), b.optional(2), **attributes)
    b.give(0, activate(b, y, b.attribute("activation", ""), _parameters(b)))


@expands("GemmFastGelu")
def _gemm_fast_gelu(b: Body) -> None:
    """``Gelu(X @ W + bias)`` by tanh."""
    y = b.add(b("MatMul", b.input(0), b.input(1)), b.optional(2))
    b.give(0, b("Gelu", y, approximate="tanh"))


def window(b: Body, *names: str) -> dict[str, Any]:
    """Attributes of a convolution or pooling that are set."""
    wanted = names or _WINDOW
    return {name: b.node.attributes[name] for name in wanted if name in b.node.attributes}


@expands("FusedConv")
def _fused_conv(b: Body) -> None:
    """``f(Conv(X, W, B) + Z)``."""
    y = b("Conv", b.input(0), b.input(1), b.optional(2), **window(b))
    y = b.add(y, b.optional(3))
    b.give(0, activate(b, y, b.attribute("activation", ""), _listed(b)))


def _listed(b: Body) -> dict[str, float]:
    """Parameters of the activation of a fused convolution, which come as a list."""
    name, given = b.attribute("activation", ""), b.attribute("activation_params", [])
    names = ("min", "max") if name == "Clip" else ("alpha", "beta")
    return dict(zip(names, given, strict=False))


@expands("NhwcConv", "NhwcFusedConv")
def _nhwc_conv(b: Body) -> None:
    """``f(Conv(X, W, B) + Z)`` of channels-last images; the weights are as in Conv."""
    y = b("Conv", channels_first(b, b.input(0)), b.input(1), b.optional(2), **window(b))
    y = b.add(channels_last(b, y), b.optional(3))
    b.give(0, activate(b, y, b.attribute("activation", ""), _listed(b)))


def channels_first(b: Body, value: Value) -> Value:
    """Channels-last images as Conv reads them."""
    rank = rank_of(value)
    return b.transpose(value, 0, rank - 1, *range(1, rank - 1))


def channels_last(b: Body, value: Value) -> Value:
    """The inverse of `channels_first`."""
    rank = rank_of(value)
    return b.transpose(value, 0, *range(2, rank), 1)


@expands("CDist")
def _distances(b: Body) -> None:
    """Distances between the rows a of A and b of B: ``a² - 2ab + b²``, or its root."""
    left, right = b.input(0), b.input(1)
    squares = [b("ReduceSum", b("Mul", v, v), b.ints(1), keepdims=1) for v in (left, right)]
    product = b("MatMul", left, b.transpose(right, 1, 0))
    twice = b("Mul", product, b.like(2, product))
    total = b.add(b("Sub", squares[0], twice), b.transpose(squares[1], 1, 0))
    total = b("Max", total, b.like(0, total))
    euclidean = b.attribute("metric", "sqeuclidean") == "euclidean"
    b.give(0, b("Sqrt", total) if euclidean else total)

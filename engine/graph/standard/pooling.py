"""Pooling of other orders, and maxima put back into a tensor of a given size."""

from __future__ import annotations

from engine.graph.body import Body, Unsupported, dtype_of, rank_of
from engine.graph.standard.registry import expands

_KERNELS = (1, 2)
"""Orders that kernels exist for."""


@expands("LpPool", "GlobalLpPool")
def lp_pool(b: Body) -> bool:
    """``LpPool(x, p) = LpPool(|x|^p, 1)^(1/p)``."""
    order = b.attribute("p", 2)
    if order in _KERNELS:
        return False
    x = b.input(0)
    if order < 1 or dtype_of(x).name not in ("float32", "float64"):
        raise Unsupported(f"its order is {order}, its input {x.dtype}")
    powers = b("Pow", b("Abs", x), b.like(float(order), x))
    sums = b(b.node.op, powers, **{**b.node.attributes, "p": 1})
    b.give(0, b("Pow", sums, b.like(1 / float(order), x)))
    return True


@expands("MaxUnpool")
def max_unpool(b: Body) -> bool:
    """With an output_shape s: ``MaxUnpool(x, i, s) = Pad(MaxUnpool(x, i))`` behind every axis.

    So indices count in the tensor that the window makes, as in the onnx package.
    """
    wanted = b.optional(2)
    if wanted is None:
        return False
    rank = rank_of(b.input(0))
    attributes = dict(b.node.attributes)
    plain = b("MaxUnpool", b.input(0), b.input(1), **attributes)
    more = b("Sub", wanted, b("Shape", plain))
    pads = b("Concat", b.ints(*[0] * rank), more, axis=0)
    b.give(0, b("Pad", plain, pads))
    return True

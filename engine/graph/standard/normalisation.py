"""Batch normalisation with computed parameters, and of training."""

from __future__ import annotations

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of
from engine.graph.ir import Value
from engine.graph.standard.registry import expands


@expands("BatchNormalization")
def batch_normalization(b: Body) -> bool:
    """``y = (x - m) * (scale / sqrt(v + epsilon)) + bias`` per channel.

    m and v are inputs; in training they are the mean and the variance of x over all axes but the
    channels, and the further outputs are ``input * momentum + m * (1 - momentum)``, alike for v.
    Inference with constant parameters has a kernel.
    """
    x, given = b.input(0), [b.input(index) for index in range(1, 5)]
    training = bool(b.attribute("training_mode", 0))
    if not training and all(value.data is not None for value in given):
        return False
    if b.node.version < 14 and len(b.node.outputs) > 1:
        raise Unsupported("its further outputs are those of an old version")
    rank = rank_of(x)
    if rank < 2 or dtype_of(x).name not in ("float32", "float64"):
        raise Unsupported(f"its input is {x.dtype} of rank {rank}")
    spread = list(range(1, rank - 1))

    def per_channel(value: Value) -> Value:
        vector = b.cast(value, x.dtype)
        return b("Unsqueeze", vector, b.ints(*spread)) if spread else vector

    scale, bias, mean, variance = (per_channel(value) for value in given)
    if training:
        others = b.ints(0, *range(2, rank))
        momentum = float(b.attribute("momentum", 0.9))
        running = mean, variance
        mean = b("Squeeze", b("ReduceMean", x, others, keepdims=1), b.ints(0))
        distance = b("Sub", x, mean)
        square = b("Mul", distance, distance)
        variance = b("Squeeze", b("ReduceMean", square, others, keepdims=1), b.ints(0))
        for index, (before, now) in enumerate(zip(running, (mean, variance), strict=True), 1):
            kept = b("Mul", before, b.like(momentum, x))
            after = b("Add", kept, b("Mul", now, b.like(1 - momentum, x)))
            flat = b("Squeeze", after, b.ints(*spread)) if spread else after
            b.give(index, b.cast(flat, dtype_of(given[2])))
    epsilon = b.like(float(np.float32(b.attribute("epsilon", 1e-5))), x)
    factor = b("Div", scale, b("Sqrt", b("Add", variance, epsilon)))
    b.give(0, b("Add", b("Mul", b("Sub", x, mean), factor), bias))
    return True

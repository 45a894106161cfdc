"""Normalisation after a residual addition or an embedding."""

from __future__ import annotations

import numpy as np

from engine.graph.body import Body, rank_of
from engine.graph.contributed.activations import activate
from engine.graph.contributed.registry import expands
from engine.graph.ir import Value

_EPSILON = 1e-12
"""Default of the fused forms; the plain one has ONNX's."""


@expands("SkipLayerNormalization")
def _skip_layer_normalisation(b: Body) -> None:
    """``LayerNormalization(s)`` of ``s = input + skip + bias``; s is the fourth output."""
    total = b.add(b.input(0), b.input(1), b.optional(4))
    epsilon = b.attribute("epsilon", _EPSILON)
    outputs = b.several(
        "LayerNormalization", 3, total, b.input(2), b.optional(3), axis=-1, epsilon=epsilon
    )
    for index, value in enumerate((*outputs, total)):
        b.give(index, value)


@expands("SkipSimplifiedLayerNormalization")
def _skip_simplified(b: Body) -> None:
    """``RMSNormalization(s)`` of ``s = input + skip + bias``; s is the fourth output."""
    total = b.add(b.input(0), b.input(1), b.optional(3))
    epsilon = b.attribute("epsilon", _EPSILON)
    b.give(0, b("RMSNormalization", total, b.input(2), axis=-1, epsilon=epsilon))
    b.give(3, total)


@expands("SimplifiedLayerNormalization")
def _simplified(b: Body) -> None:
    """``x * scale / sqrt(mean(x**2) + epsilon)``; the second output is the reciprocal root."""
    x = b.input(0)
    axis, epsilon = int(b.attribute("axis", -1)), b.attribute("epsilon", 1e-5)
    b.give(0, b("RMSNormalization", x, b.input(1), axis=axis, epsilon=epsilon))
    if b.wants(1):
        rank = rank_of(x)
        axes = b.ints(*range(axis % rank, rank))
        mean = b("ReduceMean", b("Mul", x, x), axes, keepdims=1)
        b.give(1, b("Reciprocal", b("Sqrt", b.add(mean, b.like(epsilon, x)))))


@expands("EmbedLayerNormalization")
def _embed(b: Body) -> None:
    """``LayerNormalization(word[ids] + position[p] + segment[segment_ids])``.

    p counts from 0 along the sequence where no position ids are given. The second output counts the
    ones of each row of the mask, the third is the sum before normalisation.
    """
    ids = b.input(0)
    words = b("Gather", b.input(2), ids, axis=0)
    table = b.input(3)
    if b.optional(8) is not None:
        positions = b("Gather", table, b.input(8), axis=0)
    else:
        positions = b("Slice", table, b.ints(0), b.size(ids, 1), b.ints(0))
    total = b.add(words, positions)
    if b.optional(1) is not None and b.optional(4) is not None:
        total = b.add(total, b("Gather", b.input(4), b.input(1), axis=0))
    epsilon = b.attribute("epsilon", _EPSILON)
    b.give(0, b("LayerNormalization", total, b.input(5), b.optional(6), axis=-1, epsilon=epsilon))
    if b.wants(1):
        b.give(1, _mask_index(b, ids))
    b.give(2, total)


def _mask_index(b: Body, ids: Value) -> Value:
    mask = b.optional(7)
    if mask is not None and b.attribute("mask_index_type", 1) == 1:
        ones = b.cast(b("Equal", mask, b.like(1, mask)), np.int32)
    else:
        zero = b.constant(np.zeros((), np.int32))
        ones = b("Mul", b.cast(ids, np.int32), zero)
    return b("ReduceSum", ones, b.ints(1), keepdims=0)


@expands("GroupNorm", "SkipGroupNorm")
def _group_norm(b: Body) -> None:
    """``GroupNormalization(X + skip + bias)``, channels last where the attribute says so."""
    skip = b.node.op == "SkipGroupNorm"
    x = b.input(0)
    last = bool(b.attribute("channels_last", 1))
    order = (0, 3, 1, 2)
    if skip:
        x = b.add(x, _channelwise(b, b.input(3), last), _channelwise(b, b.optional(4), last))
        b.give(1, x)
    y = b.transpose(x, *order) if last else x
    y = b(
        "GroupNormalization",
        y,
        b.cast(b.input(1), x.dtype),
        b.cast(b.input(2), x.dtype),
        num_groups=int(b.attribute("groups")),
        epsilon=b.attribute("epsilon", 1e-5),
    )
    if b.attribute("activation", 0):
        y = b("Mul", y, activate(b, y, "Sigmoid", {}))
    b.give(0, b.transpose(y, 0, 2, 3, 1) if last else y)


def _channelwise(b: Body, value: Value | None, last: bool) -> Value | None:
    """A vector of channels, or [N, C], in the shape that adds to an image."""
    if value is None or rank_of(value) == 4:
        return value
    if rank_of(value) == 1:
        return value if last else b.reshape(value, 1, -1, 1, 1)
    return b("Unsqueeze", value, b.ints(1, 2) if last else b.ints(2, 3))

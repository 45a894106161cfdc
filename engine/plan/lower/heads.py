"""Lowering of heads of detectors onto the ``heads`` kernel.

``packhorse.Heads`` is a 1x1 ``packhorse.Conv`` of stride 1 over two spatial axes, with constant
weights, whose output channels are parted over its outputs, each channels-first: [N, channels,
height, width].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.dims import ceildiv, maximum
from engine.graph.ir import Node
from engine.kernels.heads import STRIP, spec
from engine.plan.lower.dot import epilogue_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.packing import FloatArray, packing
from engine.plan.tensor import ONE


def _filters_shape(weights: np.ndarray[Any, Any], lanes: int) -> tuple[int, ...]:
    outputs, channels = weights.shape[:2]
    return -(-channels // lanes) * lanes, outputs


@packing(_filters_shape)
def pack_filters(weights: np.ndarray[Any, Any], lanes: int) -> FloatArray:
    """Filters [O, C, 1, 1] as [C, O], zeros up to whole vectors of C."""
    outputs, channels = weights.shape[:2]
    padded = np.zeros(_filters_shape(weights, lanes), np.float32)
    padded[:channels] = weights.reshape(outputs, channels).T
    return padded


@lowers("packhorse.Heads")
def heads(node: Node, low: Lowering) -> None:
    """Channels-first planes of 1x1 convolutions to few channels."""
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weight is not None
    assert weight.data is not None
    for value in (source, *node.outputs):
        if value.dtype != np.float32:
            raise NoKernel(f"{value.name} is {value.dtype}; convolution computes float32")
    x = low.read(source)
    if x.strides[-1] != ONE:
        x = low.contiguous(x)
    results = [low.write(value, dense=False) for value in node.outputs]
    images, height, width, channels = x.shape
    dense = all(y.strides[2] == width for y in results)
    if dense and x.strides[1] == x.strides[2] * width:
        # Rows follow each other without a gap: an image is one row.
        height, width = ONE, height * width
    epilogue, extras = epilogue_of(node, 2)
    words: dict[str, Any] = {"x": x, **{f"y{i}": y for i, y in enumerate(results)}}
    for i, (access, value) in enumerate(extras):
        assert value.data is not None
        words[f"e{i}"] = low.constant(np.asarray(value.data, np.float32).reshape(-1))
        assert access in ("column", "scalar")
    lanes = low.target.lanes()
    strips = maximum(ceildiv(width, STRIP), 1)
    for i, y in enumerate(results):
        for axis, stride in zip("nch", y.strides, strict=False):
            words[f"y{i}_{axis}"] = stride * 4
    parts = [y.shape[1].value for y in results]
    low.call(
        spec(parts, [access for access, _ in extras], epilogue),
        items=images * height * strips,
        cost=channels.value * (sum(parts) * 2 + 8) * STRIP // (4 * lanes) + 100,
        writes=" ".join(f"y{i}" for i in range(len(results))),
        w=low.constant(pack_filters(np.asarray(weight.data, np.float32), lanes), weight.name),
        height=height,
        width=width,
        strips=strips,
        c=channels,
        x_n=x.strides[0] * 4,
        x_h=x.strides[1] * 4,
        x_w=x.strides[2] * 4,
        **words,
    )


__all__ = ["heads", "pack_filters"]

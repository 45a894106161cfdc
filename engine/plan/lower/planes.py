"""Lowering of convolutions of few channels onto the ``planes`` kernel.

``packhorse.PlaneConv`` is ``packhorse.Conv`` over two spatial axes, with constant weights, whose
input has its channels on axis ``channel_axis`` (1 or 3); ``pool`` 2 takes the maximum of every
2 x 2 outputs, after the epilogue. The output is channels-last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.ir import Node
from engine.kernels.planes import Shape, shape_for, spec, steps
from engine.plan.lower.dot import epilogue_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.packing import FloatArray, packing, pad_columns
from engine.plan.tensor import Tensor

_ROWS = 8
"""Output rows per work item at most: the rows that two items copy are few beside it."""


def _filters_shape(weights: np.ndarray[Any, Any], shape: Shape) -> tuple[int, ...]:
    _, channels, *kernel = weights.shape
    return (shape.blocks, channels, *kernel, shape.block)


@packing(_filters_shape)
def pack_filters(weights: np.ndarray[Any, Any], shape: Shape) -> FloatArray:
    """Filters [O, C, KH, KW] as [blocks, C, KH, KW, block], zeros for the channels that fill up."""
    outputs, *rest = weights.shape
    padded = np.zeros((shape.channels, *rest), np.float32)
    padded[:outputs] = weights
    blocks = padded.reshape(shape.blocks, shape.block, *rest)
    return np.ascontiguousarray(np.moveaxis(blocks, 1, -1))


@lowers("packhorse.PlaneConv")
def plane_conv(node: Node, low: Lowering) -> None:
    """Convolution of an image of few channels, with pooling."""
    source, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None
    assert weight is not None
    assert weight.data is not None
    for value in (source, out):
        if value.dtype != np.float32:
            raise NoKernel(f"{value.name} is {value.dtype}; convolution computes float32")
    outputs, channels, *kernel = weight.data.shape
    pool, strides = int(node.attribute("pool")), node.attribute("strides") or [1, 1]
    pads = node.attribute("pads") or [0] * 4
    shape = shape_for(outputs, pool, low.target)
    row_step, column_step, reach, span = steps(kernel, strides, pool)
    x, y = low.read(source), low.write(out, dense=False)
    if node.attribute("channel_axis") == 3:
        x = x.permute((0, 3, 1, 2))
    height, width = y.shape[1:3]
    epilogue, extras = epilogue_of(node, 2)
    operands = {
        f"e{i}": _per_channel(low, access, value.data, shape)
        for i, (access, value) in enumerate(extras)
    }
    rows = maximum(minimum(height // 4, Dim.of(_ROWS)), Dim.of(1))
    lanes = low.target.lanes()
    columns = lanes * shape.vectors
    # Every vector may read on to the end of its taps; whole cache lines, so that few loads cross.
    elements = (
        ceildiv(width, columns) * columns + ceildiv(span // column_step, lanes) * lanes + lanes
    )
    lines = ((rows - 1) * row_step + reach) * channels
    finished = (outputs + shape.block + lanes) * columns
    work = channels * kernel[0] * kernel[1] * shape.channels * pool * pool
    low.call(
        spec(kernel, strides, pool, shape, [access for access, _ in extras], epilogue),
        items=y.shape[0] * ceildiv(height, rows),
        cost=rows * width * (work // lanes + 8 * outputs // lanes) // 4 + 100,
        scratch=(lines * elements * column_step + finished + 2 * lanes) * 4,
        writes="y",
        x=x,
        w=low.constant(pack_filters(np.asarray(weight.data, np.float32), shape), weight.name),
        y=y,
        height=height,
        width=width,
        o=outputs,
        inner_height=_before_pooling(x.shape[2], pads[0] + pads[2], kernel[0], strides[0]),
        inner_width=_before_pooling(x.shape[3], pads[1] + pads[3], kernel[1], strides[1]),
        rows=rows,
        row_blocks=ceildiv(height, rows),
        c=channels,
        x_height=x.shape[2],
        x_width=x.shape[3],
        x_n=x.strides[0] * 4,
        x_c=x.strides[1] * 4,
        x_h=x.strides[2] * 4,
        x_w=x.strides[3] * 4,
        top=int(pads[0]),
        left=int(pads[1]),
        span=elements,
        y_n=y.strides[0] * 4,
        y_h=y.strides[1] * 4,
        y_w=y.strides[2] * 4,
        **operands,
    )


def _before_pooling(size: Dim, padding: int, kernel: int, stride: int) -> Dim:
    return (size + (padding - kernel)) // stride + 1


def _per_channel(
    low: Lowering, access: str, data: np.ndarray[Any, Any] | None, shape: Shape
) -> Tensor:
    assert data is not None
    values = np.asarray(data, np.float32)
    if access == "scalar":
        return low.constant(values)
    return low.constant(pad_columns(values.reshape(1, -1), shape.channels))


__all__ = ["pack_filters", "plane_conv"]

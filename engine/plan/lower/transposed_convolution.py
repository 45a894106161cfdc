"""Lowering of channels-last transposed convolution onto the dot kernel.

``packhorse.ConvTranspose`` is ONNX ConvTranspose on x [N, spatial..., C] with weights in ONNX's
layout [C, O, kernel...], one group, no dilation, explicit pads.

With stride s an output at o = s·q + r - p (p the padding, r < s its *phase*) sums
``x[q - t] · w[r + s·t]`` over t: for each combination of phases a plain convolution of the input
with every s-th tap, reversed. Each writes its own pixels of the output, s apart, so nothing is
scattered or added up, and no zero is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as combinations

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import Node
from engine.plan.dot_call import Axes, Depth, DotCall, emit_dot, flat_depth, packed_weights
from engine.plan.lower.dot import epilogue_of
from engine.plan.lowering import Lowering, NoKernel, copy, lowers
from engine.plan.packing import panel_vectors
from engine.plan.tensor import ONE, ZERO, Tensor


@dataclass(frozen=True)
class _Phase:
    """One phase along one axis: its taps, its outputs, where both begin.

    The outputs are ``first + stride * i`` for i < `count`, and output i reads the input from
    ``start + i`` on (negative in the halo), over `taps`, which are positions in the kernel.
    """

    taps: tuple[int, ...]
    first: int
    count: Dim
    start: int


def _phases(kernel: int, stride: int, pad: int, outputs: Dim) -> list[_Phase]:
    found = []
    for r in range(stride):
        taps = tuple(range(r, kernel, stride))[::-1]
        # The least q whose output s·q + r - p is not negative.
        least = max(0, -(-(pad - r) // stride))
        first = stride * least + r - pad
        count = (outputs - first + (stride - 1)) // stride
        found.append(_Phase(taps, first, count, least - (len(taps) - 1)))
    return found


@lowers("packhorse.ConvTranspose")
def transposed_convolution(node: Node, low: Lowering) -> None:
    """One product per combination of phases."""
    source, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None
    assert weight is not None
    assert weight.data is not None
    if source.dtype != np.float32:
        raise NoKernel(f"{source.name} is {source.dtype}; the dot kernel computes float32")
    data = np.asarray(weight.data)
    rank = data.ndim - 2
    kernel = data.shape[2:]
    strides = node.attribute("strides") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    extra = node.attribute("output_padding") or [0] * rank
    sides = [(k - 1, k - 1 + e) for k, e in zip(kernel, extra, strict=True)]
    tensor = low.read(source)
    x = low.padded(tensor.dtype, tensor.shape, ((0, 0), *sides, (0, 0)), f"{source.name}.padded")
    copy(low, tensor, x)
    y = low.write(out, dense=False)
    axes = [_phases(kernel[i], strides[i], pads[i], y.shape[1 + i]) for i in range(rank)]
    epilogue, extras = epilogue_of(node, 2)
    vectors = panel_vectors(data.shape[1], low.target)
    operands = [(access, low.read(value)) for access, value in extras]
    # Four row axes are one too many: images of three are a batch axis instead.
    images = 1 if rank == 3 else 0
    for phases in combinations(*axes):
        taps = data
        for axis, phase in enumerate(phases, 2):
            taps = taps.take(np.array(phase.taps, np.int64), axis)
        matrix = np.moveaxis(taps, (0, 1), (-2, -1)).reshape(-1, data.shape[1])
        window = _output_window(y, phases, strides)
        start = x.offset
        for axis, phase in enumerate(phases):
            start = start + x.strides[1 + axis] * phase.start
        depth = _depth(x, data.shape[0], [len(phase.taps) for phase in phases])
        width = vectors * low.target.lanes()
        emit_dot(
            low,
            DotCall(
                a=_axes(replace(x, offset=start), images),
                b=packed_weights(low, matrix[None], width, depth, weight.name),
                c=_axes(window, images),
                rows=window.shape[images:-1],
                batch=window.shape[:images],
                b_batch=(ZERO,) * images,
                columns=Dim.of(data.shape[1]),
                depth=depth,
                vectors=vectors,
                pairs=low.pairs,
                epilogue=epilogue,
                extras=[_extra(access, t, phases, strides, images) for access, t in operands],
            ),
        )


def _output_window(y: Tensor, phases: Sequence[_Phase], strides: Sequence[int]) -> Tensor:
    """The outputs of a combination of phases, `strides` apart."""
    window = y
    for axis, (phase, stride) in enumerate(zip(phases, strides, strict=True), 1):
        window = window.window(axis, Dim.of(phase.first), phase.count, stride)
    return window


def _axes(tensor: Tensor, images: int) -> Axes:
    """Strides of a tensor of pixels, the first `images` of them as those of batch axes."""
    return Axes(tensor, tensor.strides[images:-1], tensor.strides[:images])


def _extra(
    access: str, tensor: Tensor, phases: Sequence[_Phase], strides: Sequence[int], images: int
) -> tuple[str, Axes]:
    if access != "tile":
        return access, Axes(tensor, (), (ZERO,) * images)
    return access, _axes(_output_window(tensor, phases, strides), images)


def _depth(x: Tensor, channels: int, taps: Sequence[int]) -> Depth:
    """K levels over the taps of a phase; the innermost axis joins the dense channels."""
    if 0 in taps:
        return flat_depth(ZERO)
    inner = Dim.of(channels * taps[-1])
    axes = [(Dim.of(n), x.strides[1 + axis]) for axis, n in enumerate(taps[:-1]) if n > 1]
    if not axes:
        return flat_depth(inner)
    if len(axes) == 1:
        return Depth(axes[0][0], ONE, inner, inner, axes[0][1], ZERO)
    return Depth(axes[0][0], axes[1][0], inner, inner, axes[0][1], axes[1][1])

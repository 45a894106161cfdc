"""Operators that move nothing: their outputs are windows into their inputs where that is possible.

Kernels read any strides as long as the last axis has unit stride (or asks for a contiguous copy
with `Lowering.read_dense`), so a window is given out if its last axis has, and copied otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from engine.graph.dims import Dim, maximum, select_stride
from engine.graph.ir import OURS, Node, Value
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.known import clamp, sign
from engine.plan.lower.operands import axis_of, checked, constants, integers, shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product, row_major


def give(low: Lowering, value: Value, view: Tensor) -> None:
    """Let `value` be `view` where kernels can read that well, else a copy of it."""
    readable = all(stride.at_least(0) for stride in view.strides)
    last = next((i for i in reversed(range(view.rank)) if view.shape[i] != ONE), None)
    if readable and (last is None or view.strides[last] == ONE):
        low.alias(value, view)
    else:
        emit_copy(low, view, low.write(value, dense=False))


def reshaped(tensor: Tensor, shape: tuple[Dim, ...]) -> Tensor | None:
    """`tensor` under another shape of as many elements, None where that takes a copy.

    Axes of the old and the new shape are grouped so that each group has the same size in both;
    each group must lie densely in the tensor.
    """
    if tensor.is_contiguous:
        return tensor.view(shape)
    old = [axis for axis in range(tensor.rank) if tensor.shape[axis] != ONE]
    new = [axis for axis in range(len(shape)) if shape[axis] != ONE]
    strides = [ZERO] * len(shape)
    while old or new:
        group = _equal_groups([tensor.shape[a] for a in old], [shape[a] for a in new])
        if group is None:
            return None
        before, after = old[: group[0]], new[: group[1]]
        old, new = old[group[0] :], new[group[1] :]
        for outer, inner in pairwise(before):
            if tensor.strides[outer] != tensor.strides[inner] * tensor.shape[inner]:
                return None
        dense = row_major([shape[a] for a in after])
        for axis, stride in zip(after, dense, strict=True):
            strides[axis] = stride * tensor.strides[before[-1]]
    # An axis of length 1 takes the stride that a dense tensor would give it.
    stride = ONE
    for axis in reversed(range(len(shape))):
        if shape[axis] == ONE:
            strides[axis] = stride
        stride = strides[axis] * shape[axis]
    return replace(tensor, shape=shape, strides=tuple(strides), halo=())


@lowers("BitCast", f"{OURS}.Bytes")
def lower_bit_cast(node: Node, low: Lowering) -> None:
    """The same bytes under another data type of the same size."""
    checked(node)
    source, dtype = low.read(node.inputs[0]), node.outputs[0].dtype
    assert dtype is not None
    if dtype.itemsize != source.itemsize or dtype.kind == "b":
        raise NoKernel(f"BitCast from {source.dtype} to {dtype}")
    low.alias(node.outputs[0], replace(source, dtype=dtype))


def _equal_groups(old: list[Dim], new: list[Dim]) -> tuple[int, int] | None:
    for i in range(1, len(old) + 1):
        for j in range(1, len(new) + 1):
            if product(old[:i]) == product(new[:j]):
                return i, j
    return None


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def lower_reshape(node: Node, low: Lowering) -> None:
    """The same elements under another shape."""
    source, result = node.inputs[0], node.outputs[0]
    shape_of(source)
    shape = shape_of(result)
    if node.op == "Reshape":
        integers(node, 1, "shape")
    elif node.op in ("Squeeze", "Unsqueeze"):
        integers(node, 1, "axes")
    tensor = low.read(source)
    view = reshaped(tensor, shape)
    low.alias(result, low.contiguous(tensor).view(shape) if view is None else view)


@lowers("Transpose")
def lower_transpose(node: Node, low: Lowering) -> None:
    """Permutation of axes: a window while the last axis stays in place."""
    checked(node)
    tensor = low.read(node.inputs[0])
    axes = node.attribute("perm") or list(reversed(range(tensor.rank)))
    give(low, node.outputs[0], replace(tensor.permute([int(a) for a in axes]), halo=()))


@lowers("Split")
def lower_split(node: Node, low: Lowering) -> None:
    """Windows of the input, one after the other along an axis."""
    checked(node)
    integers(node, 1, "split")
    shape = shape_of(node.inputs[0])
    axis = axis_of(node, len(shape))
    tensor = low.read(node.inputs[0])
    start = ZERO
    for value in node.outputs:
        length = shape_of(value)[axis]
        if value.name:
            give(low, value, tensor.window(axis, start, length))
        start = start + length


@lowers("Slice")
def lower_slice(node: Node, low: Lowering) -> None:
    """Every step-th element from a start, per axis; ends are in the output's shape."""
    checked(node)
    shape, lengths = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    starts = integers(node, 1, "starts")
    integers(node, 2, "ends")
    assert starts is not None
    axes = integers(node, 3, "axes", list(range(len(starts))))
    steps = integers(node, 4, "steps", [1] * len(starts))
    assert axes is not None
    assert steps is not None
    windows: list[tuple[int, Dim, int]] = []
    for start, axis, step in zip(
        starts, constants(axes, "axes"), constants(steps, "steps"), strict=True
    ):
        axis %= len(shape)
        dim = shape[axis]
        side = sign(start)
        if side is None:
            raise NoKernel("the sign of a start is not known")
        first = start if side > 0 else start + dim
        # Where nothing is selected, the start may lie outside; nothing is read then.
        first = clamp(first, ZERO, dim if step > 0 else maximum(dim - 1, ZERO))
        windows.append((axis, first, step))
    tensor = low.read(node.inputs[0])
    for axis, first, step in windows:
        tensor = tensor.window(axis, first, lengths[axis], step)
    give(low, node.outputs[0], tensor)


@lowers(f"{OURS}.Window")
def lower_window(node: Node, low: Lowering) -> None:
    """Slice by starts, steps and lengths that are measured before the run."""
    checked(node)
    numbers = integers(node, 1, "numbers")
    assert numbers is not None
    axes = node.attribute("axes")
    tensor = low.read(node.inputs[0])
    shape, strides, offset = list(tensor.shape), list(tensor.strides), tensor.offset
    count = len(axes)
    for place, axis in enumerate(axes):
        start, step, length = (numbers[place + part * count] for part in range(3))
        offset = offset + strides[axis] * start
        shape[axis], strides[axis] = length, strides[axis] * step
    window = replace(tensor, shape=tuple(shape), strides=tuple(strides), offset=offset, halo=())
    give(low, node.outputs[0], window)


@lowers(f"{OURS}.Frames")
def lower_frames(node: Node, low: Lowering) -> None:
    """Overlapping pieces of rows: a window whose rows begin less than their length apart."""
    checked(node)
    tensor = low.read_dense(node.inputs[0])
    row, sample = tensor.strides
    strides = (row, sample * node.attribute("step"), sample)
    shape = shape_of(node.outputs[0])
    low.alias(node.outputs[0], replace(tensor, shape=shape, strides=strides, halo=()))


@lowers("Expand")
def lower_expand(node: Node, low: Lowering) -> None:
    """Broadcast: axes of length 1 are read with stride 0."""
    checked(node)
    integers(node, 1, "shape")
    shape = shape_of(node.outputs[0])
    tensor = low.read(node.inputs[0])
    give(low, node.outputs[0], broadcast_view(tensor, shape))


def broadcast_view(tensor: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """Window of `shape` that repeats a tensor along axes of length 1 and new axes in front."""
    front = len(shape) - tensor.rank
    strides = [ZERO] * front
    for dim, length, stride in zip(shape[front:], tensor.shape, tensor.strides, strict=True):
        strides.append(stride if dim == length else select_stride(length, stride))
    return replace(tensor, shape=shape, strides=tuple(strides), halo=())

"""Rules of the operators that passes create (domain ``packhorse``)."""

from __future__ import annotations

import numpy as np

from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.inference.context import Inference, Shape, Unknown
from engine.graph.inference.convolution import Window, kernel_of
from engine.graph.inference.elements import Elements
from engine.graph.inference.matrix import matmul_shape
from engine.graph.inference.registry import rule
from engine.graph.ir import OURS
from engine.graph.tensors import data_type
from engine.kernels.nonzero import BLOCK


@rule("Copy", domain=OURS)
def _copy(node: Inference) -> None:
    node.output(0, node.shape(0), node.dtype(0))


@rule("Inverse", "Silu", domain=OURS)
def _same(node: Inference) -> None:
    node.output(0, node.shape(0), node.dtype(0))


@rule("Bytes", domain=OURS)
def _bytes(node: Inference) -> None:
    """The same bytes as elements of another type of one byte."""
    node.output(0, node.shape(0), data_type(node.attribute("to"), "to"))


@rule("Trees", domain=OURS)
def _trees(node: Inference) -> None:
    node.output(0, (node.shape(0)[0], node.shape(8)[0]), node.dtype(0))


@rule("Elementwise", domain=OURS)
def _elementwise(node: Inference) -> None:
    """Inputs broadcast; the attribute `expression` knows the data type of the result."""
    shapes = [node.shape(index) for index in range(len(node.node.inputs))]
    node.output(0, node.broadcast(shapes), np.dtype(node.attribute("expression").dtype))


def _channels_first(shape: Shape) -> Shape:
    return (shape[0], shape[-1], *shape[1:-1])


@rule("Conv", domain=OURS)
def _convolution(node: Inference) -> None:
    """Channels-last input and output, weights as ONNX has them."""
    shape, filters = _channels_first(node.shape(0)), node.shape(1)
    group = node.attribute("group", 1)
    node.require_equal(shape[1], filters[1] * group, "input channels and weight channels * group")
    window = Window(node, len(shape) - 2, kernel_of(node, filters, len(shape) - 2))
    node.output(0, (shape[0], *window.spatial(shape), filters[0]), node.dtype(0))


@rule("ConvTranspose", domain=OURS)
def _transposed_convolution(node: Inference) -> None:
    """Channels-last, explicit pads, one group."""
    shape, filters = node.shape(0), node.shape(1)
    rank = len(shape) - 2
    window = Window(node, rank, kernel_of(node, filters, rank))
    extra = node.attribute("output_padding") or [0] * rank
    sizes = [
        (size - 1) * window.strides[axis]
        + (extra[axis] - window.begin[axis] - window.end[axis])
        + window.extent(axis)
        for axis, size in enumerate(shape[1:-1])
    ]
    node.output(0, (shape[0], *sizes, filters[1]), node.dtype(0))


@rule("MatMul", domain=OURS)
def _product(node: Inference) -> None:
    """As ONNX MatMul; the epilogue keeps shape and data type."""
    node.output(0, matmul_shape(node, node.shape(0), node.shape(1)), node.dtype(0))


@rule("MaxPool", "AveragePool", "LpPool", domain=OURS)
def _pool(node: Inference) -> None:
    """Channels-last pooling."""
    shape = _channels_first(node.shape(0))
    window = Window(node, len(shape) - 2, kernel_of(node, None, len(shape) - 2))
    spatial = window.spatial(shape, bool(node.attribute("ceil_mode", 0)))
    node.output(0, (shape[0], *spatial, shape[1]), node.dtype(0))


@rule("GlobalAveragePool", "GlobalMaxPool", domain=OURS)
def _global_pool(node: Inference) -> None:
    """Channels-last pooling over all spatial axes, which stay with length 1."""
    shape = node.shape(0)
    ones = tuple(Dim.of(1) for _ in shape[1:-1])
    node.output(0, (shape[0], *ones, shape[-1]), node.dtype(0))


@rule("RoiAlign", domain=OURS)
def _roi_align(node: Inference) -> None:
    """As ONNX RoiAlign, channels-last."""
    height, width = node.attribute("output_height", 1), node.attribute("output_width", 1)
    regions = node.require_equal(node.shape(1)[0], node.shape(2)[0], "rois and batch_indices")
    node.output(0, (regions, height, width, node.shape(0)[3]), node.dtype(0))


@rule("Attention", domain=OURS)
def _attention(node: Inference) -> None:
    """Shape of the queries with the size of the values, heads behind positions if transposed."""
    query, values = node.shape(0), node.shape(2)
    shape = (*query[:-1], values[-1])
    if node.attribute("transposed"):
        shape = (shape[0], shape[2], shape[1], shape[3])
    node.output(0, shape, node.dtype(0))


@rule("Sizes", domain=OURS)
def _sizes(node: Inference) -> None:
    """Numbers that a run knows before the nodes that need them are bound: a symbol for each.

    What may be negative is the difference of two symbols, which both are not. See
    `engine.graph.passes.runtime_sizes`.
    """
    count = node.attribute("count")
    shape: tuple[int, ...]
    if count is None:
        dims = node.shape(0)
        if not all(dim.is_constant for dim in dims) or len(dims) > 1:
            raise Unknown
        shape = tuple(dim.value for dim in dims)
        count = shape[0] if shape else 1
    else:
        shape = (count,)
    signed = set(node.attribute("signed") or ())
    elements: Elements = np.empty(count, object)
    for index in range(count):
        size = node.fresh(0, index)
        elements[index] = size - node.fresh(0, f"{index}_below") if index in signed else size
    dtype = node.dtype(0) if node.attribute("of") == "values" else np.dtype(np.int64)
    node.output(0, dtype=dtype, elements=elements.reshape(shape))


@rule("Window", domain=OURS)
def _window(node: Inference) -> None:
    """Slice by measured numbers: starts, steps and lengths of the attribute's `axes`."""
    shape = list(node.shape(0))
    axes = node.attribute("axes")
    numbers = node.entries(1)
    for axis, length in zip(axes, numbers[2 * len(axes) :], strict=True):
        shape[axis] = node.fresh(0, axis) if length is None else length
    node.output(0, shape, node.dtype(0))


@rule("Assume", domain=OURS)
def _assume(node: Inference) -> None:
    """The first input, in a graph that is valid only where the second is the attribute `equal`."""
    source = node.value(0)
    node.output(0, source.shape, source.dtype)
    condition = node.scalar(1)
    node.require_equal(condition, Dim.of(node.attribute("equal")), node.attribute("what"))


@rule("Resize", domain=OURS)
def _resize(node: Inference) -> None:
    """As ONNX Resize to given sizes; scales and roi only tell where in the input those lie."""
    shape = list(node.shape(0))
    sizes = node.entries(3)
    axes = node.attribute("axes") or list(range(len(shape)))
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = node.fresh(0, axis) if size is None else size
    node.output(0, shape, node.dtype(0))


@rule("Frames", domain=OURS)
def _frames(node: Inference) -> None:
    """Overlapping pieces [rows, frames, length] of rows [rows, samples]."""
    rows, samples = node.shape(0)
    length, step = node.attribute("length"), node.attribute("step")
    node.output(0, (rows, (samples - length) // step + 1, length), node.dtype(0))


@rule("DeformedColumns", domain=OURS)
def _deformed_columns(node: Inference) -> None:
    """Samples [groups, N, rows, columns, taps * channels of a group]; one group has no axis."""
    images, height, width, channels = node.shape(0)
    offset = node.shape(1)
    kernel, group = node.attribute("kernel_shape"), node.attribute("group")
    pads, strides = node.attribute("pads"), node.attribute("strides")
    spatial = []
    for axis, size in enumerate((height, width)):
        span = node.attribute("dilations")[axis] * (kernel[axis] - 1) + 1
        length = (size + (pads[axis] + pads[axis + 2] - span)) // strides[axis] + 1
        spatial.append(node.require_equal(offset[2 + axis], length, "sizes of offset and result"))
    taps = kernel[0] * kernel[1]
    wanted = Dim.of(2 * taps * node.attribute("offset_group"))
    node.require_equal(offset[1], wanted, "channels of offset")
    images = node.require_equal(images, offset[0], "images and offsets")
    if node.has(2):
        given = node.shape(2)
        for axis, size in enumerate((images, wanted // 2, *spatial)):
            node.require_equal(given[axis], size, "mask and offset")
    shape = (images, *spatial, channels // group * taps)
    node.output(0, shape if group == 1 else (group, *shape), node.dtype(0))


@rule("CountNonZero", domain=OURS)
def _count_nonzero(node: Inference) -> None:
    """Where the results of each block of elements begin, with an entry for the end; their number.

    See `engine.graph.passes.data_sizes`.
    """
    size = Dim.of(1)
    for dim in node.shape(0):
        size = size * dim
    node.output(0, (ceildiv(size, BLOCK) + 1,), np.int64)
    node.output(1, (1,), np.int64)


@rule("Positions", domain=OURS)
def _positions(node: Inference) -> None:
    (count,) = node.entries(2)
    size = node.fresh(0, 1) if count is None else count
    node.output(0, (len(node.shape(0)), size), np.int64)


@rule("Suppress", domain=OURS)
def _suppress(node: Inference) -> None:
    """Kept boxes per image and class, as many as there may be; where each begins; their number."""
    boxes, (images, classes, count) = node.shape(0), node.shape(1)
    images = node.require_equal(boxes[0], images, "images of boxes and scores")
    count = node.require_equal(boxes[1], count, "numbers of boxes and scores")
    node.require_equal(boxes[2], Dim.of(4), "coordinates of a box")
    most = node.state.known(node.value(2))
    limit = most.reshape(-1)[0] if most is not None and most.size == 1 else None
    capacity = minimum(maximum(limit, 0), count) if isinstance(limit, Dim) else count
    node.output(0, (images, classes, capacity), np.int32)
    node.output(1, (images * classes + 1,), np.int64)
    node.output(2, (1,), np.int64)


@rule("KeptBoxes", domain=OURS)
def _kept_boxes(node: Inference) -> None:
    (count,) = node.entries(2)
    node.output(0, (node.fresh(0, 0) if count is None else count, 3), np.int64)


@rule("Distinct", domain=OURS)
def _distinct(node: Inference) -> None:
    """First positions and numbers of distinct rows, and of each row the one it is."""
    for place in range(3):
        node.output(place, node.shape(0)[:1], np.int64)
    node.output(3, (1,), np.int64)

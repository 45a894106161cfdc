"""Rules of operators that slide a window: convolution, its transpose, pooling, and their kin."""

from __future__ import annotations

from engine.graph.dims import Dim, ceildiv, minimum
from engine.graph.inference.context import Inference, Shape, Unknown
from engine.graph.inference.registry import rule


class Window:
    """Kernel, strides, dilations and pads of a node over `rank` spatial axes."""

    def __init__(self, node: Inference, rank: int, kernel: Shape) -> None:
        self.kernel = kernel
        self.strides: list[int] = self._per_axis(node, "strides", rank, 1)
        self.dilations: list[int] = self._per_axis(node, "dilations", rank, 1)
        pads = node.attribute("pads") or [0] * (2 * rank)
        if len(pads) != 2 * rank:
            node.error(f"pads has {len(pads)} entries for {rank} spatial axes")
        self.begin: list[int] = pads[:rank]
        self.end: list[int] = pads[rank:]
        self.auto = node.attribute("auto_pad", "NOTSET") or "NOTSET"
        if self.auto == "VALID":
            self.begin = self.end = [0] * rank
        if len(kernel) != rank:
            node.error(f"the kernel has {len(kernel)} axes, the input {rank} spatial ones")

    @staticmethod
    def _per_axis(node: Inference, name: str, rank: int, default: int) -> list[int]:
        values = node.attribute(name) or [default] * rank
        if len(values) != rank:
            node.error(f"{name} has {len(values)} entries for {rank} spatial axes")
        if min(values, default=1) < 1:
            node.error(f"{name} must be positive")
        return list(values)

    def extent(self, axis: int) -> Dim:
        """Positions that the dilated kernel spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def output(self, axis: int, size: Dim, ceil: bool = False) -> Dim:
        """Output size of a spatial axis of `size`; `ceil` counts a last partial window.

        A window that would begin in the end padding does not count.
        """
        stride = self.strides[axis]
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            return ceildiv(size, stride)
        span = size + self.begin[axis] + self.end[axis] - self.extent(axis)
        if not ceil:
            return span // stride + 1
        return minimum(ceildiv(span, stride) + 1, ceildiv(size + self.begin[axis], stride))

    def spatial(self, shape: Shape, ceil: bool = False) -> Shape:
        """Output sizes of all spatial axes of an input with batch and channel axes."""
        return tuple(self.output(axis, size, ceil) for axis, size in enumerate(shape[2:]))


def kernel_of(node: Inference, weight: Shape | None, rank: int) -> Shape:
    """Spatial kernel size: the attribute, which must agree with the weight, or the weight's."""
    declared = node.attribute("kernel_shape")
    if declared is None:
        if weight is None:
            raise Unknown
        return weight[2:]
    kernel = tuple(Dim.of(size) for size in declared)
    if weight is not None and len(kernel) == len(weight) - 2:
        for axis, (left, right) in enumerate(zip(kernel, weight[2:], strict=True)):
            node.require_equal(left, right, f"kernel_shape and the weight's spatial axis {axis}")
    elif len(kernel) != rank:
        node.error(f"kernel_shape has {len(kernel)} axes, the input {rank} spatial ones")
    return kernel


def _convolution(node: Inference, data: int, weight: int, bias: int) -> None:
    shape, filters = node.shape(data), node.shape(weight)
    if len(shape) < 3 or len(filters) != len(shape):
        node.error(f"input has rank {len(shape)} and weight rank {len(filters)}; want equal, >= 3")
    group = node.attribute("group", 1)
    node.require_equal(shape[1], filters[1] * group, "input channels and weight channels * group")
    if group < 1 or (filters[0].is_constant and filters[0].value % group):
        node.error(f"{filters[0]} output channels do not divide into {group} groups")
    if node.has(bias) and node.value(bias).shape is not None:
        node.rank(bias, 1)
        node.require_equal(node.shape(bias)[0], filters[0], "bias and output channels")
    window = Window(node, len(shape) - 2, kernel_of(node, filters, len(shape) - 2))
    node.output(0, (shape[0], filters[0], *window.spatial(shape)))


@rule("Conv", "DeformConv")
def _infer_convolution(node: Inference) -> None:
    _convolution(node, 0, 1, 2 if node.node.op == "Conv" else 3)


@rule("ConvInteger")
def _integer_convolution(node: Inference) -> None:
    _convolution(node, 0, 1, 4)


@rule("QLinearConv")
def _quantised_convolution(node: Inference) -> None:
    _convolution(node, 0, 3, 8)


@rule("CausalConvWithState")
def _causal_convolution(node: Inference) -> None:
    shape, weight = node.shape(0), node.shape(1)
    node.rank(0, 3)
    node.rank(1, 3)
    node.require_equal(shape[1], weight[0], "input channels and weight channels")
    node.same_shape()
    node.output(1, (shape[0], shape[1], weight[2] - 1))


@rule("ConvTranspose")
def _transposed_convolution(node: Inference) -> None:
    shape, filters = node.shape(0), node.shape(1)
    if len(shape) < 3 or len(filters) != len(shape):
        node.error(f"input has rank {len(shape)} and weight rank {len(filters)}; want equal, >= 3")
    rank = len(shape) - 2
    node.require_equal(shape[1], filters[0], "input channels and weight channels")
    window = Window(node, rank, kernel_of(node, filters, rank))
    channels = filters[1] * node.attribute("group", 1)
    declared = node.attribute("output_shape")
    if declared:
        node.output(0, (shape[0], channels, *declared[-rank:]))
        return
    extra = node.attribute("output_padding") or [0] * rank
    sizes: list[Dim] = []
    for axis, size in enumerate(shape[2:]):
        stride = window.strides[axis]
        if window.auto in ("SAME_UPPER", "SAME_LOWER"):
            sizes.append(size * stride)
        else:
            pads = window.begin[axis] + window.end[axis]
            sizes.append((size - 1) * stride + extra[axis] + window.extent(axis) - pads)
    node.output(0, (shape[0], channels, *sizes))


@rule("MaxPool", "AveragePool", "LpPool")
def _pooling(node: Inference) -> None:
    shape = node.shape(0)
    if len(shape) < 3:
        node.error(f"input has rank {len(shape)}, but must have batch, channel and spatial axes")
    window = Window(node, len(shape) - 2, kernel_of(node, None, len(shape) - 2))
    result = (*shape[:2], *window.spatial(shape, ceil=bool(node.attribute("ceil_mode", 0))))
    node.output(0, result)
    node.output(1, result, "int64")


@rule("MaxUnpool")
def _unpooling(node: Inference) -> None:
    shape = node.shape(0)
    if node.has(2):
        node.output(0, node.unknown(0, len(shape)))
        given = node.entries(2)
        node.output(0, (s if s is not None else node.fresh(0, a) for a, s in enumerate(given)))
        return
    window = Window(node, len(shape) - 2, kernel_of(node, None, len(shape) - 2))
    sizes = [
        (size - 1) * window.strides[a] + window.kernel[a] - window.begin[a] - window.end[a]
        for a, size in enumerate(shape[2:])
    ]
    node.output(0, (*shape[:2], *sizes))


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pooling(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, (*shape[:2], *(1 for _ in shape[2:])))


@rule("MaxRoiPool")
def _roi_pooling(node: Inference) -> None:
    node.output(0, (node.shape(1)[0], node.shape(0)[1], *node.attribute("pooled_shape")))


@rule("RoiAlign")
def _roi_align(node: Inference) -> None:
    node.rank(0, 4)
    height, width = node.attribute("output_height", 1), node.attribute("output_width", 1)
    regions = node.require_equal(node.shape(1)[0], node.shape(2)[0], "rois and batch_indices")
    node.output(0, (regions, node.shape(0)[1], height, width))


@rule("Col2Im")
def _columns_to_image(node: Inference) -> None:
    shape = node.shape(0)
    node.rank(0, 3)
    image = [s if s is not None else node.fresh(0, a + 2) for a, s in enumerate(node.entries(1))]
    block = node.entries(2)
    rank = len(image)
    if len(block) != rank:
        node.error(f"block_shape has {len(block)} entries for {rank} axes")
    pads = node.attribute("pads") or [0] * (2 * rank)
    strides, dilations = (node.attribute(n) or [1] * rank for n in ("strides", "dilations"))
    taps = positions = Dim.of(1)
    for axis, length in enumerate(block):
        if length is None:
            node.output(0, (shape[0], node.fresh(0, 1), *image))
            return
        taps = taps * length
        free = image[axis] + (pads[axis] + pads[axis + rank] - 1) - (length - 1) * dilations[axis]
        positions = positions * (free // strides[axis] + 1)
    node.require_equal(shape[2], positions, "blocks and the places that the image has for them")
    node.output(0, (shape[0], shape[1] // taps, *image))


@rule("DepthToSpace")
def _depth_to_space(node: Inference) -> None:
    node.rank(0, 4)
    batch, channels, height, width = node.shape(0)
    block = node.attribute("blocksize")
    if block < 1 or (channels.is_constant and channels.value % (block * block)):
        node.error(f"{channels} channels do not divide by blocksize {block} squared")
    node.output(0, (batch, channels // (block * block), height * block, width * block))


@rule("SpaceToDepth")
def _space_to_depth(node: Inference) -> None:
    node.rank(0, 4)
    batch, channels, height, width = node.shape(0)
    block = node.attribute("blocksize")
    if block < 1 or any(d.is_constant and d.value % block for d in (height, width)):
        node.error(f"image of {height} x {width} does not divide by blocksize {block}")
    node.output(0, (batch, channels * (block * block), height // block, width // block))

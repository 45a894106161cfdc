"""Lowering of channels-last convolution onto the dot and depthwise kernels.

``packhorse.Conv`` is ONNX Conv on x [N, spatial..., C] with weights in ONNX's layout
[O, C / group, kernel...] and an output [N, spatial..., O]; ``epilogue`` and ``access`` are those of
``packhorse.MatMul``, bias included. Its input lies in a buffer with a zero halo as wide as the
padding: the producer writes into it where it can, else a copy is made, and no kernel clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.codegen.expression import Expr
from engine.graph.dims import Dim
from engine.graph.ir import Graph, Node, Value
from engine.kernels import depthwise
from engine.kernels.winograd import OUTPUTS
from engine.plan.dot_call import Axes, Depth, DotCall, emit_dot, flat_depth, packed_weights
from engine.plan.lower.dot import epilogue_of, pack_computed
from engine.plan.lower.minimal_filtering import direct_sum, filterings, may_filter
from engine.plan.lower.pooling import Window, window_of
from engine.plan.lowering import Lowering, NoKernel, copy, lowers
from engine.plan.packing import pad_columns, panel_vectors
from engine.plan.tensor import ONE, ZERO, Tensor

_CHANNEL_BLOCK = 8
"""Vectors of channels per work item of the depthwise kernel."""

Halo = tuple[tuple[int, int], ...]


def _filter_shape(node: Node) -> tuple[int, ...]:
    """Shape of the weights, which also computed ones have before a run."""
    weights = node.inputs[1]
    if weights is None or weights.shape is None:
        raise NoKernel("the rank of the weights is not known")
    if not all(dim.is_constant for dim in weights.shape):
        raise NoKernel(f"the weights {weights.name} are of no fixed size")
    return tuple(dim.value for dim in weights.shape)


def halo_of(node: Node) -> Halo:
    """Zeros that a convolution may read around its input, per axis (batch and channels: none).

    With ``auto_pad`` the padding depends on the size; its largest value is taken.
    """
    kernel = _filter_shape(node)[2:]
    rank = len(kernel)
    dilations = node.attribute("dilations") or [1] * rank
    if node.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        spans = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        sides = [(s, s) for s in spans]
    else:
        pads = node.attribute("pads") or [0] * (2 * rank)
        sides = [(max(0, pads[i]), max(0, pads[rank + i])) for i in range(rank)]
    return ((0, 0), *sides, (0, 0))


def reach_of(node: Node) -> Halo:
    """Halo of a convolution whatever algorithm it takes: whole Winograd tiles reach further."""
    halo = halo_of(node)
    if not may_filter(node):
        return halo
    extra = max(OUTPUTS) - 1
    return tuple((a, b + extra if 0 < i < len(halo) - 1 else b) for i, (a, b) in enumerate(halo))


def request_halos(graph: Graph, low: Lowering) -> None:
    """Ask for halos: every value that convolutions read gets the widest padding among them."""
    for node in graph.nodes:
        if node.key != "packhorse.Conv" or node.inputs[0] is None:
            continue
        value, halo = node.inputs[0], reach_of(node)
        if not any(after or before for before, after in halo):
            continue
        known = low.halos.get(id(value), halo)
        low.halos[id(value)] = tuple(
            (max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(known, halo, strict=True)
        )


@dataclass(frozen=True)
class _Geometry:
    x: Tensor
    y: Tensor
    window: Window
    start: Dim

    @property
    def spatial(self) -> int:
        return self.x.rank - 2


@lowers("packhorse.Conv")
def conv(node: Node, low: Lowering) -> None:
    """Convolution over one to three spatial axes; computed weights are packed per run."""
    source, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None
    assert weight is not None
    for value in (source, weight, out):
        if value.dtype != np.float32:
            raise NoKernel(f"{value.name} is {value.dtype}; convolution computes float32")
    filters = _filter_shape(node)
    if len(filters) > 5:
        raise NoKernel(f"{len(filters) - 2} spatial axes; the kernels step through three")
    group = int(node.attribute("group", 1))
    outputs, channels = filters[:2]
    x = _with_halo(low, source, node)
    y = low.write(out, dense=False)
    epilogue, extras = epilogue_of(node, 2)
    window = window_of(_with_kernel(node, filters), x.shape[1:-1], y.shape[1:-1])
    start = x.offset
    for axis, before in enumerate(window.before):
        start = start - x.strides[1 + axis] * before
    geometry = _Geometry(replace(x, offset=start), y, window, start)
    tensors = [(access, _extra(low, access, value)) for access, value in extras]
    small = channels == 1 and outputs == group and geometry.spatial <= 2
    if group > 1 and small and weight.data is not None:
        _depthwise(low, geometry, weight, epilogue, tensors)
    elif may_filter(node):
        _choose(low, geometry, weight, epilogue, tensors)
    else:
        _dense(low, geometry, weight, group, epilogue, tensors)


def _choose(
    low: Lowering,
    g: _Geometry,
    weight: Value,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
) -> None:
    """Winograd or the direct sum, by the cost of one image; at bind where its size is dynamic."""
    tried = filterings(g.x, g.y, weight, extras)
    candidates = []
    left = ONE
    while tried:
        filtered, *tried = tried
        fits = filtered.pays == ZERO or filtered.fits(low)
        candidates.append(filtered.candidate(low, fits=fits))
        if not fits:
            smaller = tuple(other.size for other in tried)
            tried = filterings(g.x, g.y, weight, extras, smaller)
        elif filtered.pays != ZERO:
            filtered.emit(low, epilogue)
            left = left - filtered.pays
    low.offer(*candidates, direct_sum(filtered, low))
    if left != ZERO:
        first = len(low.calls)
        _dense(low, g, weight, 1, epilogue, extras)
        for call in low.calls[first:]:
            call.items = call.items * left


def _extra(low: Lowering, access: str, value: Value) -> Tensor:
    """Tensor of an epilogue input; the kernels read its last axis densely."""
    tensor = low.read(value)
    dense = access == "scalar" or tensor.strides[-1] == ONE
    return tensor if dense else low.contiguous(tensor)


def _with_kernel(node: Node, filters: tuple[int, ...]) -> Node:
    attributes = dict(node.attributes, kernel_shape=list(filters[2:]))
    return replace(node, attributes=attributes)


def _with_halo(low: Lowering, value: Value, node: Node) -> Tensor:
    """The input with at least the halo that the convolution reads and unit-stride channels."""
    tensor, needed = low.read(value), reach_of(node)
    has = tensor.halo or tuple((0, 0) for _ in tensor.shape)
    wide = all(h[0] >= n[0] and h[1] >= n[1] for h, n in zip(has, needed, strict=True))
    if wide and tensor.strides[-1] == ONE:
        return tensor
    target = low.padded(tensor.dtype, tensor.shape, needed, f"{value.name}.padded")
    copy(low, tensor, target)
    return target


def _dense(
    low: Lowering,
    g: _Geometry,
    weight: Value,
    group: int,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
) -> None:
    """One product; where the window has more axes than the kernel has levels, one per slice.

    A slice of the window along its first axis is a window of its own. Each product adds the sums of
    those before it, which lie in a tensor between them; the last has the epilogue.
    """
    assert weight.shape is not None
    _, channels, *kernel = (dim.value for dim in weight.shape)
    if _fits_levels(g, channels, tuple(kernel), group):
        _product(low, g, weight, None, group, epilogue, extras)
        return
    sums: list[tuple[str, Tensor]] = []
    for tap in range(kernel[0]):
        last = tap == kernel[0] - 1
        start = g.x.offset + g.x.strides[1] * (g.window.dilations[0] * tap)
        y = g.y if last else low.temp(np.float32, g.y.shape, "slices")
        value = epilogue if last else None
        operands = [*extras, *sums] if last else sums
        if sums:
            first, before = (Expr.input(i, "float32") for i in (0, len(operands)))
            total = Expr.of("add", first, before)
            value = total if value is None else value.substitute({0: total})
        part = replace(g, x=replace(g.x, offset=start), y=y)
        _product(low, part, weight, tap, group, value, operands)
        sums = [("tile", y)]


def _product(
    low: Lowering,
    g: _Geometry,
    weight: Value,
    tap: int | None,
    group: int,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
) -> None:
    """The sum over the window, or over its slice `tap` along the first axis."""
    assert weight.shape is not None
    outputs, channels, *kernel = (dim.value for dim in weight.shape)
    if tap is not None:
        kernel[0] = 1
    columns = outputs // group
    vectors = panel_vectors(columns, low.target)
    width = vectors * low.target.lanes()
    depth = _depth(g, channels, tuple(kernel), group)
    b, b_pitch = _packed_filters(low, weight, tap, group, width, depth)
    rows, x_rows, y_rows = _row_axes(g)
    batch: tuple[Dim, ...] = ()
    a_batch: tuple[Dim, ...] = ()
    b_batch: tuple[Dim, ...] = ()
    c_batch: tuple[Dim, ...] = ()
    if g.spatial == 3:
        # Four row axes are one too many: images are a batch axis instead.
        batch, b_batch = rows[:1], (ZERO,)
        a_batch, c_batch = x_rows[:1], y_rows[:1]
        rows, x_rows, y_rows = rows[1:], x_rows[1:], y_rows[1:]
    if group > 1:
        batch = (*batch, Dim.of(group))
        a_batch, c_batch = (*a_batch, Dim.of(channels)), (*c_batch, Dim.of(columns))
        b_batch = (*b_batch, b_pitch)
    operands: list[tuple[str, Axes]] = []
    for access, tensor in extras:
        if access == "tile":
            _, _, strides = _row_axes(replace(g, y=tensor))
            own = (strides[0],) if g.spatial == 3 else ()
            groups = (Dim.of(columns),) if group > 1 else ()
            operands.append((access, Axes(tensor, strides[len(own) :], (*own, *groups))))
        elif access == "column" and group > 1:
            axes = _grouped_column(low, tensor, group, columns, width)
            operands.append((access, replace(axes, batch=(ZERO, *axes.batch)[-len(batch) :])))
        else:
            operands.append((access, Axes(tensor, (), tuple(ZERO for _ in batch))))
    emit_dot(
        low,
        DotCall(
            a=Axes(g.x, x_rows, a_batch),
            b=b,
            c=Axes(g.y, y_rows, c_batch),
            rows=rows,
            batch=batch,
            b_batch=b_batch,
            columns=Dim.of(columns),
            depth=depth,
            vectors=vectors,
            pairs="" if weight.data is None else low.pairs,
            epilogue=epilogue,
            extras=operands,
        ),
    )


def _packed_filters(
    low: Lowering, weight: Value, tap: int | None, group: int, width: int, depth: Depth
) -> tuple[Tensor, Dim]:
    """Panels of the filters of every group, and the elements from one group to the next.

    [O, C, kernel...] becomes [group, kernel..., C, O / group]: K in the order the kernel walks it.
    Of the first axis of the window, only `tap` where it is given.
    """
    assert weight.shape is not None
    outputs, channels, *kernel = (dim.value for dim in weight.shape)
    split = (group, outputs // group, channels, *kernel)
    axes = (0, *range(3, len(split)), 2, 1)
    if weight.data is not None:
        filters = weight.data.reshape(split).transpose(axes)
        if tap is not None:
            filters = filters[:, tap]
        matrices = filters.reshape(group, -1, split[1])
        packed = packed_weights(low, matrices, width, depth, weight.name)
        return packed, packed.strides[0]
    taps = low.read_dense(weight).view([Dim.of(n) for n in split]).permute(axes)
    if tap is not None:
        taps, kernel = taps.window(1, Dim.of(tap), ONE), [1, *kernel[1:]]
    shape = (Dim.of(group), Dim.of(channels * math.prod(kernel)), Dim.of(split[1]))
    b, vectors = pack_computed(low, low.contiguous(taps).view(shape))
    assert vectors * low.target.lanes() == width
    return b, b.strides[0]


def _grouped_column(low: Lowering, tensor: Tensor, group: int, columns: int, width: int) -> Axes:
    """Per-channel epilogue input of a grouped convolution, padded to whole panels per group."""
    data = tensor.buffer.data
    if data is None:
        return Axes(tensor, (), (Dim.of(columns),))
    padded = pad_columns(np.asarray(data, np.float32).reshape(group, columns), width)
    return Axes(low.constant(padded, tensor.buffer.name), (), (Dim.of(padded.shape[1]),))


def _row_axes(g: _Geometry) -> tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[Dim, ...]]:
    """Row axes (images and output pixels): lengths, strides of x, strides of y."""
    shape = g.y.shape[:-1]
    steps = [ONE, *(Dim.of(s) for s in g.window.strides)]
    x_strides = [stride * step for stride, step in zip(g.x.strides[:-1], steps, strict=True)]
    y_strides = list(g.y.strides[:-1])
    return tuple(shape), tuple(x_strides), tuple(y_strides)


def _levels(
    g: _Geometry, channels: int, kernel: tuple[int, ...], group: int
) -> tuple[list[tuple[Dim, Dim]], Dim]:
    """Axes of the window, (length, stride), outside of the dense run that each step covers.

    The innermost joins the channels where pixels lie densely.
    """
    axes = [
        (Dim.of(length), g.x.strides[1 + axis] * g.window.dilations[axis])
        for axis, length in enumerate(kernel)
        if length > 1
    ]
    depth = Dim.of(channels)
    if axes and axes[-1][1] == depth and group == 1:
        depth = depth * axes.pop()[0]
    return axes, depth


def _fits_levels(g: _Geometry, channels: int, kernel: tuple[int, ...], group: int) -> bool:
    """Whether the kernel's two levels above the dense run walk the window."""
    return len(_levels(g, channels, kernel, group)[0]) <= 2


def _depth(g: _Geometry, channels: int, kernel: tuple[int, ...], group: int) -> Depth:
    """K levels of the window."""
    axes, depth = _levels(g, channels, kernel, group)
    if not axes:
        return flat_depth(depth)
    if len(axes) == 1:
        return Depth(axes[0][0], ONE, depth, depth, axes[0][1], ZERO)
    return Depth(axes[0][0], axes[1][0], depth, depth, axes[0][1], axes[1][1])


def _depthwise(
    low: Lowering,
    g: _Geometry,
    weight: Value,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
) -> None:
    assert weight.data is not None
    data = np.asarray(weight.data, np.float32)
    channels, kernel = data.shape[0], data.shape[2:]
    w = low.constant(data.reshape(channels, -1).T, weight.name)
    one = g.spatial == 1
    height, width = (ONE, g.y.shape[1]) if one else g.y.shape[1:3]
    kh, kw = (1, kernel[0]) if one else kernel
    spec = depthwise.spec([access for access, _ in extras], epilogue)
    lanes = low.target.lanes()
    block = min(_CHANNEL_BLOCK * lanes, -(-channels // lanes) * lanes)
    blocks = -(-channels // block)
    words: dict[str, Any] = {"x": g.x, "w": w, "y": g.y}
    steps = (1, *g.window.strides) if one else g.window.strides
    dilations = (1, *g.window.dilations) if one else g.window.dilations
    x_n, x_h, x_w = _image_strides(g.x)
    words.update(x_n=x_n * 4, x_h=x_h * 4 * steps[0], x_w=x_w * 4 * steps[1])
    words.update(x_kh=x_h * 4 * dilations[0], x_kw=x_w * 4 * dilations[1])
    y_n, y_h, y_w = _image_strides(g.y)
    words.update(y_n=y_n * 4, y_h=y_h * 4, y_w=y_w * 4)
    for i, (access, tensor) in enumerate(extras):
        words[f"e{i}"] = tensor
        if access == "tile":
            for axis, stride in zip("nhw", _image_strides(tensor), strict=True):
                words[f"e{i}_{axis}"] = stride * 4
    low.call(
        spec,
        items=g.y.shape[0] * height * blocks,
        cost=width * (kh * kw * block // (2 * lanes)) + 20,
        writes="y",
        height=height,
        width=width,
        c=channels,
        kh=kh,
        kw=kw,
        channels=block,
        blocks=blocks,
        **words,
    )


def _image_strides(tensor: Tensor) -> tuple[Dim, Dim, Dim]:
    """Strides of image, row and column of a channels-last tensor of one or two spatial axes."""
    if tensor.rank == 3:
        return tensor.strides[0], ZERO, tensor.strides[1]
    return tensor.strides[0], tensor.strides[1], tensor.strides[2]


__all__ = ["conv", "halo_of", "request_halos"]

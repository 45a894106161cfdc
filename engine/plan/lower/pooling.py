"""Lowering of pooling operators: channels-last ones in place, channels-first ones by transposing.

Padding may depend on the input's size (``auto_pad``), so all of a window's geometry but its kernel,
strides and dilations is dim expressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, maximum
from engine.graph.ir import OURS, Node
from engine.kernels import windows
from engine.kernels.pool import AXES
from engine.plan.lower.reduction import emit_reduce
from engine.plan.lower.windows import geometry
from engine.plan.lowering import Lowering, NoKernel, copy, lowers
from engine.plan.tensor import ZERO, Tensor, product

_UNROLLED: Final = (2, 3)
"""Window widths whose columns the kernel unrolls."""

_MAXIMUM_TYPES: Final = ("float32", "float64", "int8", "uint8")


@dataclass(frozen=True)
class Window:
    """Geometry of a pooling window, one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]


def window_of(node: Node, size: tuple[Dim, ...], out: tuple[Dim, ...]) -> Window:
    """The window that a node's attributes describe; `size` and `out` are the spatial axes."""
    rank = len(size)
    kernel = tuple(int(k) for k in node.attribute("kernel_shape"))
    strides = tuple(int(s) for s in node.attribute("strides") or (1,) * rank)
    dilations = tuple(int(d) for d in node.attribute("dilations") or (1,) * rank)
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        before: list[Dim] = []
        after: list[Dim] = []
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            total = maximum((out[axis] - 1) * strides[axis] + span - size[axis], ZERO)
            less, more = total // 2, total - total // 2
            before.append(less if mode == "SAME_UPPER" else more)
            after.append(more if mode == "SAME_UPPER" else less)
        return Window(kernel, strides, dilations, tuple(before), tuple(after))
    pads = [int(p) for p in node.attribute("pads") or (0,) * (2 * rank)]
    if mode == "VALID":
        pads = [0] * (2 * rank)
    ends = (tuple(Dim.of(p) for p in side) for side in (pads[:rank], pads[rank:]))
    return Window(kernel, strides, dilations, *ends)


def _emit_pool(low: Lowering, node: Node, op: str, x: Tensor, y: Tensor) -> None:
    """Emit pooling of `x` into `y`, both channels-last with unit-stride channels."""
    rank = x.rank - 2
    window = window_of(node, x.shape[1:-1], y.shape[1:-1])
    unrolled = window.kernel[-1] if window.dilations[-1] == 1 else 0
    spec = KernelSpec.of(
        "pool",
        op=op,
        dtype=str(x.dtype),
        rank=rank,
        dilated=max(window.dilations) > 1,
        unrolled=unrolled if unrolled in _UNROLLED else 0,
        include_pad=op == "average" and bool(node.attribute("count_include_pad", 0)),
    )
    words: dict[str, Dim | int] = {}
    for i, axis in enumerate(AXES[3 - rank :]):
        words[f"size_{axis}"] = x.shape[1 + i]
        words[f"out_{axis}"] = y.shape[1 + i]
        words[f"kernel_{axis}"] = window.kernel[i]
        words[f"stride_{axis}"] = window.strides[i]
        words[f"dilation_{axis}"] = window.dilations[i]
        words[f"pad_{axis}"] = window.before[i]
        words[f"pad_end_{axis}"] = window.after[i]
        words[f"x_{axis}"] = x.strides[1 + i]
        words[f"y_{axis}"] = y.strides[1 + i]
    bytes_read = x.shape[-1] * x.itemsize * int(np.prod(window.kernel))
    low.call(
        spec,
        items=y.shape[0] * product(y.shape[1:-2]),
        # A column costs about 5 ns beside the taps, which run at some 200 bytes per nanosecond.
        cost=y.shape[-2] * (bytes_read // 200 + 5),
        writes="y",
        x=x,
        y=y,
        channels=x.shape[-1],
        x_n=x.strides[0],
        y_n=y.strides[0],
        **words,
    )


def _operation(node: Node) -> str:
    """The kernel's name of what a node computes; NoKernel where there is none."""
    value, result = node.inputs[0], node.outputs[0]
    if value is None or value.shape is None or value.dtype is None or result.shape is None:
        raise NoKernel("the rank of the input is not known")
    if not 3 <= value.rank <= 5:
        raise NoKernel(f"pooling of rank {value.rank}; kernels exist for 1 to 3 spatial axes")
    dtype = str(value.dtype)
    if node.op == "MaxPool":
        if dtype not in _MAXIMUM_TYPES:
            raise NoKernel(f"MaxPool of {dtype}")
        return "max"
    if dtype not in ("float32", "float64"):
        raise NoKernel(f"{node.op} of {dtype}")
    if node.op == "AveragePool":
        return "average"
    order = int(node.attribute("p", 2))
    if order not in (1, 2):
        raise NoKernel(f"LpPool of order {order}; kernels exist for 1 and 2")
    return f"l{order}"


@lowers(f"{OURS}.MaxPool", f"{OURS}.AveragePool", f"{OURS}.LpPool")
def lower_pool(node: Node, low: Lowering) -> None:
    """Pooling of an image [N, spatial..., C]."""
    op = _operation(node)
    x = low.read(node.inputs[0])
    if x.strides[-1] != 1:
        x = low.contiguous(x)
    _emit_pool(low, node, op, x, low.write(node.outputs[0], dense=False))


@lowers("MaxPool", "AveragePool", "LpPool")
def lower_pool_channels_first(node: Node, low: Lowering) -> None:
    """Pooling of an image [N, C, spatial...] outside of channels-last networks."""
    if any(output.name for output in node.outputs[1:]):
        emit_indices(node, low)
        return
    op = _operation(node)
    x, y = low.read(node.inputs[0]), low.write(node.outputs[0])
    last = (0, *range(2, x.rank), 1)
    x_last, y_last = x.permute(last), y.permute(last)
    source = low.temp(x.dtype, x_last.shape, "channels-last")
    target = low.temp(y.dtype, y_last.shape, "channels-last")
    copy(low, x_last, source)
    _emit_pool(low, node, op, source, target)
    copy(low, target, y_last)


def emit_indices(node: Node, low: Lowering) -> None:
    """Maxima and where they are, on images [N, C, spatial...]."""
    _operation(node)
    x = low.read_dense(node.inputs[0])
    y, indices = (
        low.write(value) if value.name else low.temp(value.dtype, value.shape or (), "unused")
        for value in node.outputs
    )
    window = window_of(node, x.shape[2:], y.shape[2:])
    low.call(
        KernelSpec.of(
            windows.INDICES.name,
            dtype=str(x.dtype),
            columns=bool(node.attribute("storage_order", 0)),
        ),
        items=product(y.shape[:-1]),
        cost=y.shape[-1] * (int(np.prod(window.kernel)) * 2 + 5),
        writes="y indices",
        x=x,
        y=y,
        indices=indices,
        **geometry(
            x.shape[2:], y.shape[2:], window.kernel, window.strides, window.before, window.dilations
        ),
    )


def _global(node: Node, low: Lowering, axes: tuple[int, ...]) -> None:
    value = node.inputs[0]
    assert value is not None
    op = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}.get(node.op)
    if op is None:
        order = int(node.attribute("p", 2))
        if order not in (1, 2):
            raise NoKernel(f"GlobalLpPool of order {order}; kernels exist for 1 and 2")
        op = f"l{order}"
    if str(value.dtype) not in ("float32", "float64"):
        raise NoKernel(f"{node.op} of {value.dtype}")
    emit_reduce(low, op, low.read(value), axes, low.write(node.outputs[0]))


_GLOBAL: Final = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")


@lowers(*(f"{OURS}.{op}" for op in _GLOBAL))
def lower_global_pool(node: Node, low: Lowering) -> None:
    """Pooling of whole images [N, spatial..., C]: a reduction of the spatial axes."""
    _global(node, low, tuple(range(1, _rank(node) - 1)))


@lowers(*_GLOBAL)
def lower_global_pool_channels_first(node: Node, low: Lowering) -> None:
    """Pooling of whole images [N, C, spatial...]: a reduction of the spatial axes."""
    _global(node, low, tuple(range(2, _rank(node))))


def _rank(node: Node) -> int:
    value = node.inputs[0]
    if value is None or value.shape is None or value.dtype is None:
        raise NoKernel("the rank of the input is not known")
    return value.rank

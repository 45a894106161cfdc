"""Emitting copies between strided windows, and the zeroing of halos.

Axes are merged wherever both windows allow it; what remains decides the kernel
(`engine.kernels.copy`, `engine.kernels.transpose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, minimum
from engine.kernels import copy, halo, transpose
from engine.kernels.odometer import outer_rank
from engine.plan.tensor import ONE, ZERO, Tensor, product

if TYPE_CHECKING:
    from engine.plan.lowering import Lowering

_BYTES_PER_NANOSECOND = 8
"""Assumed speed of a copy on one thread, source and target counted once."""


@dataclass(frozen=True)
class Axis:
    """One axis that several windows share: its length and each window's stride in elements."""

    length: Dim
    strides: tuple[Dim, ...]


def merged_axes(*windows: Tensor) -> list[Axis]:
    """Axes of windows of one shape, merged where all of them allow it, outermost first."""
    axes: list[Axis] = []
    for position, length in enumerate(windows[0].shape):
        if length == ONE:
            continue
        strides = tuple(window.strides[position] for window in windows)
        if axes and all(
            outer == inner * length for outer, inner in zip(axes[-1].strides, strides, strict=True)
        ):
            axes[-1] = Axis(axes[-1].length * length, strides)
        else:
            axes.append(Axis(length, strides))
    return axes


def axis_words(
    rank: int, axes: Sequence[Axis], names: Sequence[str], itemsizes: Sequence[int]
) -> dict[str, Dim]:
    """Parameters of an odometer over `axes`: lengths ``d``, byte strides per name; 1s in front."""
    words: dict[str, Dim] = {}
    front = rank - len(axes)
    for position in range(rank):
        axis = axes[position - front] if position >= front else None
        words[f"d{position}"] = axis.length if axis else ONE
        for window, (name, itemsize) in enumerate(zip(names, itemsizes, strict=True)):
            stride = axis.strides[window] * itemsize if axis else ZERO
            words[f"{name}{position}"] = stride
    return words


def unit_axis(axes: Sequence[Axis], window: int) -> int | None:
    """The innermost axis along which `window` has stride 1."""
    for position in reversed(range(len(axes))):
        if axes[position].strides[window] == ONE:
            return position
    return None


def emit_copy(low: Lowering, source: Tensor, target: Tensor) -> None:
    """Emit a copy from `source` to `target`: windows of one shape and element size."""
    assert source.rank == target.rank, f"{source.buffer.name}: copy between ranks"
    assert source.itemsize == target.itemsize, f"{source.buffer.name}: copy between sizes"
    axes = merged_axes(source, target)
    from_, to = unit_axis(axes, 0), unit_axis(axes, 1)
    if not axes:
        axes, from_, to = [Axis(ONE, (ONE, ONE))], 0, 0
    if from_ is not None and from_ == to:
        _emit_rows(low, source, target, axes, from_)
    elif from_ is not None and to is not None and source.itemsize in (1, 2, 4, 8):
        _emit_tiles(low, source, target, axes, from_, to)
    else:
        inner = to if to is not None else from_ if from_ is not None else len(axes) - 1
        _emit_strided(low, source, target, axes, inner)


def _emit_rows(low: Lowering, source: Tensor, target: Tensor, axes: list[Axis], inner: int) -> None:
    row_bytes = axes[inner].length * source.itemsize
    outer = axes[:inner] + axes[inner + 1 :]
    rank = outer_rank(len(outer))
    chunks = ceildiv(row_bytes, copy.CHUNK_BYTES)
    low.call(
        KernelSpec.of(copy.ROWS.name, rank=rank),
        items=product([axis.length for axis in outer]) * chunks,
        cost=minimum(row_bytes, copy.CHUNK_BYTES) // _BYTES_PER_NANOSECOND + 1,
        writes="y",
        x=source,
        y=target,
        row_bytes=row_bytes,
        chunks=chunks,
        **axis_words(rank, outer, "xy", [source.itemsize] * 2),
    )


def _emit_tiles(
    low: Lowering, source: Tensor, target: Tensor, axes: list[Axis], from_: int, to: int
) -> None:
    itemsize = source.itemsize
    across, along = axes[from_], axes[to]
    outer = [axis for axis in axes if axis is not across and axis is not along]
    rank = outer_rank(len(outer))
    chunks = ceildiv(along.length, transpose.CHUNK_ELEMENTS)
    block = transpose.BLOCK_ELEMENTS
    tiles = ceildiv(across.length, block)
    elements = minimum(along.length, transpose.CHUNK_ELEMENTS) * minimum(across.length, block)
    low.call(
        KernelSpec.of(transpose.TILES.name, rank=rank, itemsize=itemsize),
        items=product([axis.length for axis in outer]) * chunks * tiles,
        cost=elements * itemsize // _BYTES_PER_NANOSECOND + 1,
        writes="y",
        x=source,
        y=target,
        across=across.length,
        along=along.length,
        x_along=along.strides[0] * itemsize,
        y_across=across.strides[1] * itemsize,
        chunks=chunks,
        tiles=tiles,
        **axis_words(rank, outer, "xy", [itemsize] * 2),
    )


def _emit_strided(
    low: Lowering, source: Tensor, target: Tensor, axes: list[Axis], position: int
) -> None:
    itemsize = source.itemsize
    inner = axes[position]
    outer = axes[:position] + axes[position + 1 :]
    rank = outer_rank(len(outer))
    chunks = ceildiv(inner.length, copy.CHUNK_ELEMENTS)
    low.call(
        KernelSpec.of(copy.STRIDED.name, rank=rank, itemsize=itemsize),
        items=product([axis.length for axis in outer]) * chunks,
        cost=minimum(inner.length, copy.CHUNK_ELEMENTS) + 2,
        writes="y",
        x=source,
        y=target,
        inner=inner.length,
        x_inner=inner.strides[0] * itemsize,
        y_inner=inner.strides[1] * itemsize,
        chunks=chunks,
        **axis_words(rank, outer, "xy", [itemsize] * 2),
    )


def emit_zero_halo(low: Lowering, whole: Tensor, window: Tensor) -> None:
    """Emit the zeroing of everything in dense `whole` outside `window`, and nothing inside."""
    emit_frame(low, whole, window, 0)


def emit_frame(low: Lowering, whole: Tensor, window: Tensor, pattern: int | Dim) -> None:
    """Fill everything in dense `whole` outside `window`, and nothing inside.

    `pattern` is the 8 bytes that the filling element repeats to. The window must be row-major in
    the buffer of `whole`.
    """
    assert whole.is_contiguous, f"{whole.buffer.name}: a halo in a buffer with gaps"
    assert window.buffer is whole.buffer
    itemsize = whole.itemsize
    axes = merged_axes(window)
    run = ONE
    if axes and axes[-1].strides[0] == ONE:
        run = axes.pop().length
    rank = outer_rank(len(axes))
    runs = product([axis.length for axis in axes])
    total = whole.size * itemsize
    gap = (total - runs * run * itemsize) // (runs + 1)
    low.call(
        KernelSpec.of(halo.HALO.name, rank=rank),
        items=runs + 1,
        cost=gap // _BYTES_PER_NANOSECOND + 2,
        writes="y",
        y=whole,
        runs=runs,
        start=(window.offset - whole.offset) * itemsize,
        run_bytes=run * itemsize,
        total_bytes=total,
        pattern=pattern,
        **axis_words(rank, axes, "y", [itemsize]),
    )

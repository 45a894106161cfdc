"""One call of the dot kernel: axes, K levels and schedule become its parameters.

The arithmetic (order of K, panel width) follows from the node and its per-image shape; the schedule
(rows, panels and K steps per work item) is free and is chosen here by the cache a block fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.kernels import dot
from engine.kernels.rows import Head
from engine.plan.lowering import Lowering
from engine.plan.packing import pack, pack_pairs
from engine.plan.tensor import ONE, ZERO, Tensor, product

_DEPTH_BLOCK: Final = 1024
"""Steps of K per pass over a row block: a slice of A (rows x steps) and of the panel then share the
second-level cache."""

_SCRATCH_SHARE: Final = 24 << 20
"""Bytes of a thread's scratch (64 MiB) that copied rows may take, and as many for partial sums."""

_COPY_COLUMNS: Final = 64
"""Columns from which copying rows that are not evenly spaced costs less than reading them in place:
a copied element serves as many multiply-adds as there are columns."""

_ALIASING: Final = 4096
"""Bytes between lines that fall into one set of the first-level cache: rows that lie a multiple of
this apart push each other out."""


@dataclass(frozen=True)
class Axes:
    """How an operand follows the axes of the call: strides in elements, outermost first.

    `rows` has one stride per row axis, `batch` one per batch axis.
    """

    tensor: Tensor
    rows: tuple[Dim, ...]
    batch: tuple[Dim, ...]


@dataclass(frozen=True)
class Depth:
    """K levels of the call, outermost first, with A's strides in elements; k1 is dense."""

    k3: Dim
    k2: Dim
    k1: Dim
    k1_last: Dim
    a_k3: Dim
    a_k2: Dim

    @property
    def size(self) -> Dim:
        """Steps of K in all."""
        return ((self.k3 - 1) * self.k1 + self.k1_last) * self.k2

    @property
    def pairs(self) -> Dim:
        """Pairs of bf16 numbers in all: every step of k3 ends with a whole one."""
        last = ceildiv(self.k1_last * self.k2, 2)
        return (self.k3 - 1) * ceildiv(self.k1 * self.k2, 2) + last


def flat_depth(length: Dim) -> Depth:
    """K of a matrix product as blocks of `_DEPTH_BLOCK`: long sums continue from partial ones."""
    if length.is_constant and length.value <= _DEPTH_BLOCK:
        return Depth(ONE, ONE, length, length, ZERO, ZERO)
    blocks = maximum(ceildiv(length, _DEPTH_BLOCK), 1)
    step = Dim.of(_DEPTH_BLOCK)
    return Depth(blocks, ONE, step, length - step * (blocks - 1), step, ZERO)


@dataclass(frozen=True)
class DotCall:
    """Everything of a dot product but its schedule.

    `rows` and `batch` are the lengths of the row and batch axes (at most three and two, outermost
    first). `b` holds panels of `vectors` vectors; `b_batch` are its batch strides in elements.
    `pairs` says in which form the panels hold pairs of bf16 numbers, if they do. `extras` are the
    epilogue's inputs, each with its access.
    """

    a: Axes
    b: Tensor
    c: Axes
    rows: tuple[Dim, ...]
    batch: tuple[Dim, ...]
    b_batch: tuple[Dim, ...]
    columns: Dim
    depth: Depth
    vectors: int
    pairs: str = ""
    epilogue: Expr | None = None
    extras: Sequence[tuple[str, Axes]] = field(default=())


def packed_weights(
    low: Lowering, matrices: np.ndarray[Any, Any], width: int, depth: Depth, name: str
) -> Tensor:
    """Constant panels of [batch, K, N] weights, in the form that the node multiplies them in."""
    if not low.pairs:
        return low.constant(pack(matrices, width), name)
    return low.constant(pack_pairs(matrices, width, (depth.k1 * depth.k2).value), name)


def emit_dot(low: Lowering, call: DotCall) -> None:
    """Emit the kernel call, with a schedule for this target."""
    rows, operands = _merge_rows(call)
    accesses = [access for access, _ in call.extras]
    spec = dot.spec(call.vectors, accesses, call.epilogue, call.pairs)
    width = call.vectors * low.target.lanes()
    height = low.target.tile_rows(call.vectors)
    m = product(rows)
    panels = maximum(ceildiv(call.columns, width), 1)
    batches = product(call.batch)
    depth = call.depth
    k3_block = _depth_block(depth)
    split = depth.k3 != ONE and depth.k3 != k3_block
    row_block = _row_block(low.tuning.row_block, height, _steps_at_a_time(depth, k3_block))
    m_items = maximum(ceildiv(m, row_block), 1)
    m_block = maximum(ceildiv(ceildiv(m, m_items), height) * height, height)
    m_items = ceildiv(m, m_block)
    wanted = low.tuning.items_per_thread * low.threads
    n_block = maximum(minimum(batches * m_items * panels // wanted, panels), 1)
    if split:
        n_block = minimum(n_block, _SCRATCH_SHARE // ((row_block + 2 * height) * width * 4))
    n_items = ceildiv(panels, n_block)
    flops = m_block * n_block * depth.size * (2 * width)
    padded = (*(ONE for _ in range(3 - len(rows))), *rows)
    numbers: dict[str, Dim | int] = {
        "m": m,
        "m1": padded[1],
        "m2": padded[2],
        "run": maximum(_even_rows(call), 1),
        "n": call.columns,
        "k1": depth.k1,
        "k1_last": depth.k1_last,
        "k2": depth.k2,
        "k3": depth.k3,
        "a_k2": depth.a_k2 * 4,
        "a_k3": depth.a_k3 * 4,
        "panel": (depth.pairs if call.pairs else depth.size) * (width * 4),
        "batch1": call.batch[-1] if call.batch else ONE,
        "m_block": m_block,
        "n_block": n_block,
        "k3_block": k3_block,
        "m_items": m_items,
        "n_items": n_items,
        # The larger operand is streamed once: 1 where B has more columns than A has rows.
        "rows_first": minimum(call.columns // maximum(m, 1), 1),
        "copied": _copied(call, operands[0]),
    }
    tensors = {"b": call.b}
    _batch_strides(numbers, "b", call.b_batch)
    names = ["a", "c", *(f"e{i}" for i in range(len(accesses)))]
    for name, axes in zip(names, operands, strict=True):
        tensors[name] = axes.tensor
        _batch_strides(numbers, name, axes.batch)
        if f"{name}_m0" in spec.layout.fields:
            strides = (*(ZERO for _ in range(3 - len(axes.rows))), *axes.rows)
            for axis, stride in enumerate(strides):
                numbers[f"{name}_m{axis}"] = stride * 4
    low.call(
        spec,
        items=batches * m_items * n_items,
        cost=flops // _flops_per_ns(low) + 100,
        scratch=_scratch(
            spec, low, m_block, n_block, _steps_at_a_time(depth, k3_block), split=split
        ),
        writes="c",
        **tensors,
        **numbers,
    )


def _even_rows(call: DotCall) -> Dim:
    """Rows of A that follow each other evenly spaced, from each multiple of their number."""
    run, step = ONE, ZERO
    for length, stride in zip(reversed(call.rows), reversed(call.a.rows), strict=True):
        if length == ONE:
            continue
        if run == ONE:
            step = stride
        elif stride != step * run:
            break
        run = run * length
    return run


def _copied(call: DotCall, a: Axes) -> Dim:
    """1 where an item should copy its rows of A first; see `_COPY_COLUMNS`."""
    if not a.rows or (call.columns.is_constant and call.columns.value < _COPY_COLUMNS):
        return ZERO
    if call.depth.k2 != ONE or (call.depth.k3 != ONE and call.depth.a_k3 != call.depth.k1):
        return ONE
    if _even_rows(call) != product(call.rows):
        return ONE
    return ONE - minimum(a.rows[-1] * 4 % _ALIASING, 1)


def _batch_strides(numbers: dict[str, Dim | int], name: str, strides: Sequence[Dim]) -> None:
    padded = (*(ZERO for _ in range(2 - len(strides))), *strides)
    for axis, stride in enumerate(padded):
        numbers[f"{name}_b{axis}"] = stride * 4


def _steps_at_a_time(depth: Depth, k3_block: Dim) -> Dim:
    return minimum(k3_block, depth.k3) * depth.k2 * maximum(depth.k1, depth.k1_last)


def _row_block(wanted: int, height: int, steps: Dim) -> int:
    """Rows per item: fewer than wanted where `steps` of K of so many would not fit the scratch."""
    if not steps.is_constant:
        return wanted
    fitting = _SCRATCH_SHARE // (4 * steps.value + 128) - height
    return max(height, min(wanted, fitting))


def _scratch(
    spec: KernelSpec, low: Lowering, m_block: Dim, n_block: Dim, steps: Dim, *, split: bool
) -> Dim:
    vectors: int = spec.options["vectors"]
    rows = m_block + low.target.tile_rows(vectors)
    sums = n_block * (vectors * low.target.vector_bytes) if split else ZERO
    per_row = steps * 4 + 128 + sums + dot.bytes_per_row(spec.options)
    return rows * per_row + (Head.SIZE + 64)


def _depth_block(depth: Depth) -> Dim:
    step = depth.k1 * depth.k2
    if step.is_constant:
        return Dim.of(max(1, _DEPTH_BLOCK // max(1, step.value)))
    return ONE


def _flops_per_ns(low: Lowering) -> int:
    """Rough speed of a core, to weigh work items against each other and against waking threads."""
    return max(1, low.tuning.lane_flops_per_us * low.target.lanes() // 1000)


def _merge_rows(call: DotCall) -> tuple[tuple[Dim, ...], list[Axes]]:
    """Row axes merged wherever every operand steps through them evenly."""
    operands = [call.a, call.c, *(axes for _, axes in call.extras)]
    followed = [
        axes
        for axes, access in zip(
            operands, ["tile", "tile", *(a for a, _ in call.extras)], strict=True
        )
        if access == "tile"
    ]
    lengths: list[Dim] = []
    strides: list[list[Dim]] = []
    for axis, length in enumerate(call.rows):
        if length == ONE:
            continue
        steps = [axes.rows[axis] for axes in followed]
        if lengths and all(
            outer == step * length for outer, step in zip(strides[-1], steps, strict=True)
        ):
            lengths[-1] = lengths[-1] * length
            strides[-1] = steps
        else:
            lengths.append(length)
            strides.append(steps)
    assert len(lengths) <= 3, "more row axes than the dot kernel steps through"
    merged = iter(range(len(followed)))
    result = []
    for axes in operands:
        if any(axes is other for other in followed):
            place = next(merged)
            rows = tuple(steps[place] for steps in strides)
            result.append(Axes(axes.tensor, rows, axes.batch))
        else:
            result.append(Axes(axes.tensor, (), axes.batch))
    return tuple(lengths), result

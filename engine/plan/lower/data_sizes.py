"""Lowering of the steps of operators that find an unknown number of results: first those that
count, then those that write what was counted."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv
from engine.graph.ir import OURS, Node
from engine.kernels import distinct, lines, nonzero, suppression
from engine.kernels.odometer import axis_names
from engine.plan.lower.operands import checked
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, Tensor

_GREEDY_NS: Final = 60
"""Nanoseconds per candidate of a suppression, sorting and comparing: typical of detectors."""


def _emit_starts(low: Lowering, node: Node, counts: Tensor, place: int) -> None:
    """Outputs `place` and the next: where each item's results begin, one entry more, which is
    their number, and that alone. The last of `counts` is not read into the sums before it."""
    starts, total = low.write(node.outputs[place]), node.outputs[place + 1]
    low.call(
        KernelSpec.of(
            lines.CUMSUM.name, dtype="int64", product=False, exclusive=True, reverse=False
        ),
        items=1,
        cost=counts.size * 2,
        writes="y",
        x=counts,
        y=starts,
        outer=1,
        length=counts.size,
        inner=1,
        blocks=1,
    )
    low.alias(total, starts.window(0, counts.size - 1, ONE))


@lowers(f"{OURS}.CountNonZero")
def lower_count(node: Node, low: Lowering) -> None:
    """Elements that are not zero, by blocks."""
    checked(node)
    source = low.read_dense(node.inputs[0])
    blocks = ceildiv(source.size, nonzero.BLOCK)
    counts = low.temp("int64", (blocks + 1,), "counts")
    low.call(
        KernelSpec.of(nonzero.COUNT.name, dtype=str(source.dtype)),
        items=blocks,
        cost=nonzero.BLOCK // low.target.lanes(source.itemsize),
        writes="counts",
        x=source,
        counts=counts,
        size=source.size,
    )
    _emit_starts(low, node, counts, 0)


@lowers(f"{OURS}.Positions")
def lower_positions(node: Node, low: Lowering) -> None:
    """Coordinates of the elements that are not zero."""
    checked(node)
    source, starts = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[1])
    result = low.write(node.outputs[0])
    low.call(
        KernelSpec.of(nonzero.POSITIONS.name, dtype=str(source.dtype), rank=source.rank),
        items=ceildiv(source.size, nonzero.BLOCK),
        cost=nonzero.BLOCK,
        writes="y",
        x=source,
        starts=starts,
        y=result,
        size=source.size,
        count=result.shape[1],
        **dict(zip(axis_names("d", source.rank).split(), source.shape, strict=True)),
    )


@lowers(f"{OURS}.Suppress")
def lower_suppress(node: Node, low: Lowering) -> None:
    """Numbers of the boxes that are kept, per image and class."""
    checked(node)
    boxes, scores, most, overlap = (low.read_dense(value) for value in node.inputs[:4])
    if str(most.dtype) != "int64" or str(overlap.dtype) != "float32":
        raise NoKernel(f"limits of types {most.dtype} and {overlap.dtype}")
    given = node.input(4)
    floor = low.constant(np.zeros(1, np.float32)) if given is None else low.read_dense(given)
    kept = low.write(node.outputs[0])
    images, classes, count = scores.shape
    counts = low.temp("int64", (images * classes + 1,), "counts")
    constant, each = suppression.workspace_bytes()
    size = ceildiv(count * each + constant, 64) * 64
    workspace = low.temp("uint8", (Dim.of(low.threads), size), "workspace")
    low.call(
        KernelSpec.of(
            suppression.SUPPRESS.name,
            center=bool(node.attribute("center_point_box", 0)),
            floor=given is not None,
        ),
        items=images * classes,
        cost=count * _GREEDY_NS,
        writes="kept counts workspace",
        boxes=boxes,
        scores=scores,
        most=most,
        overlap=overlap,
        floor=floor,
        kept=kept,
        counts=counts,
        workspace=workspace,
        count=count,
        classes=classes,
        capacity=kept.shape[2],
        workspace_bytes=size,
    )
    _emit_starts(low, node, counts, 1)


@lowers(f"{OURS}.KeptBoxes")
def lower_kept(node: Node, low: Lowering) -> None:
    """Triples of image, class and box."""
    checked(node)
    kept, starts = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[1])
    images, classes, capacity = kept.shape
    low.call(
        KernelSpec.of(suppression.KEPT.name),
        items=images * classes,
        cost=100,
        writes="y",
        kept=kept,
        starts=starts,
        y=low.write(node.outputs[0]),
        classes=classes,
        capacity=capacity,
    )


@lowers(f"{OURS}.Distinct")
def lower_distinct(node: Node, low: Lowering) -> None:
    """Distinct rows of a matrix: where they are first, which one each is, how often."""
    checked(node)
    source = low.read_dense(node.inputs[0])
    firsts, inverse, counts, total = (
        low.write(value) if value.name else low.temp("int64", value.shape or (), "unused")
        for value in node.outputs
    )
    constant, each = distinct.workspace_bytes()
    size, width = source.shape
    low.call(
        KernelSpec.of(
            distinct.DISTINCT.name,
            dtype=str(source.dtype),
            sorted=bool(node.attribute("sorted", 1)),
        ),
        items=1,
        cost=source.size * 30 + 1000,
        writes="firsts inverse counts total workspace",
        x=source,
        firsts=firsts,
        inverse=inverse,
        counts=counts,
        total=total,
        workspace=low.temp("uint8", (size * each + constant,), "workspace"),
        size=size,
        width=width,
    )

"""Lowering of MaxPool with indices, MaxUnpool and Col2Im, on channels-first images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim
from engine.graph.ir import Node
from engine.kernels import scatter, windows
from engine.kernels.odometer import outer_rank
from engine.plan.lower.copies import axis_words, emit_copy
from engine.plan.lower.operands import checked, integers
from engine.plan.lower.views import broadcast_view
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, product


def geometry(
    image: Sequence[Dim],
    result: Sequence[Dim],
    window: Sequence[Dim | int],
    strides: Sequence[int],
    pads: Sequence[Dim | int],
    dilations: Sequence[int],
) -> dict[str, Dim | int]:
    """Words of the kernels' three axes; the leading ones that are not there have length 1."""
    missing = windows.AXES - len(image)
    words: dict[str, Dim | int] = {}
    for name, values, neutral in (
        ("d", image, ONE),
        ("o", result, ONE),
        ("k", window, ONE),
        ("s", strides, ONE),
        ("p", pads, ZERO),
        ("q", dilations, ONE),
    ):
        for axis, value in enumerate([*[neutral] * missing, *values]):
            words[f"{name}{axis}"] = value
    return words


@lowers("MaxUnpool")
def lower_unpool(node: Node, low: Lowering) -> None:
    """Zeros, and elements where the indices say, counted over the whole result."""
    checked(node)
    if node.input(2) is not None:
        raise NoKernel("its output_shape is given; indices count in another tensor")
    source, indices = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[1])
    if str(indices.dtype) != "int64":
        raise NoKernel(f"indices of {indices.dtype}")
    result = low.write(node.outputs[0])
    zero = low.constant(np.zeros((), source.dtype), "zero")
    emit_copy(low, broadcast_view(zero, result.shape), result)
    rank = outer_rank(0)
    low.call(
        KernelSpec.of(
            scatter.LINES.name,
            rank=rank,
            reduction="none",
            dtype="bits",
            itemsize=result.itemsize,
            index=8,
        ),
        items=1,
        cost=source.size * 2 + 2,
        writes="y",
        indices=indices,
        updates=source,
        y=result,
        length=source.size,
        i_step=1,
        y_step=result.itemsize,
        limit=result.size,
        **axis_words(rank, [], "iy", [1, result.itemsize]),
    )


@lowers("Col2Im")
def lower_blocks(node: Node, low: Lowering) -> None:
    """Images as sums of blocks [N, C * window, positions]."""
    checked(node)
    block = integers(node, 2, "block_shape") or ()
    rank = len(block)
    source = low.read_dense(node.inputs[0])
    if rank > windows.AXES or str(source.dtype) not in ("float32", "float64"):
        raise NoKernel(f"Col2Im of {source.dtype} over {rank} axes")
    result = low.write(node.outputs[0])
    image = result.shape[2:]
    strides = [int(s) for s in node.attribute("strides") or [1] * rank]
    dilations = [int(s) for s in node.attribute("dilations") or [1] * rank]
    pads = [int(p) for p in node.attribute("pads") or [0] * (2 * rank)]
    positions = [
        (size + (pads[a] + pads[a + rank] - 1) - (block[a] - 1) * dilations[a]) // strides[a] + 1
        for a, size in enumerate(image)
    ]
    low.call(
        KernelSpec.of(windows.IMAGE.name, dtype=str(source.dtype)),
        items=product(result.shape[:2]),
        cost=source.shape[2] * product(block) + product(image),
        writes="y",
        x=source,
        y=result,
        **geometry(image, positions, block, strides, pads[:rank], dilations),
    )

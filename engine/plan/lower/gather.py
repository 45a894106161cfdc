"""Lowering of the gather family: one kernel for rows, one for elements."""

from __future__ import annotations

from dataclasses import replace

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, minimum
from engine.graph.ir import Node
from engine.kernels import gather
from engine.kernels.odometer import outer_rank
from engine.plan.lower.copies import Axis, axis_words, merged_axes
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import axis_of, checked, index_size, shape_of
from engine.plan.lower.views import give
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product, row_major


def without(tensor: Tensor, axis: int) -> Tensor:
    """`tensor` without an axis of length 1, or at index 0 of any axis."""
    shape = tensor.shape[:axis] + tensor.shape[axis + 1 :]
    strides = tensor.strides[:axis] + tensor.strides[axis + 1 :]
    return replace(tensor, shape=shape, strides=strides, halo=())


def _fixed_index(node: Node, length: Dim) -> Dim | None:
    """The index of a Gather by one known number that is proven to lie in range."""
    indices = node.inputs[1]
    assert indices is not None
    known = known_dims(indices)
    if indices.shape not in ((), (ONE,)) or known is None:
        return None
    index = known[0]
    if (-index).at_least(1):
        index = index + length
    return index if index.at_least(0) and (length - index).at_least(1) else None


@lowers("Gather")
def lower_gather(node: Node, low: Lowering) -> None:
    """Rows along an axis; a window where the index is one known number."""
    checked(node)
    itemsize = index_size(node.inputs[1])
    source = low.read(node.inputs[0])
    axis = axis_of(node, source.rank)
    fixed = _fixed_index(node, source.shape[axis])
    if fixed is not None:
        taken = source.window(axis, fixed, ONE)
        is_scalar = shape_of(node.inputs[1]) == ()
        give(low, node.outputs[0], without(taken, axis) if is_scalar else taken)
        return
    source, indices = low.contiguous(source), low.read_dense(node.inputs[1])
    row = source.strides[axis] * source.itemsize
    length = source.shape[axis]
    _emit_rows(
        low,
        (source, indices, low.write(node.outputs[0])),
        batches=product(source.shape[:axis]),
        count=indices.size,
        x_batch=length * row,
        index_batch=ZERO,
        row_bytes=row,
        selectors=[(length, row)],
        itemsize=itemsize,
    )


@lowers("GatherND")
def lower_gather_nd(node: Node, low: Lowering) -> None:
    """Rows picked by tuples of indices, within a batch."""
    checked(node)
    itemsize = index_size(node.inputs[1])
    batch = int(node.attribute("batch_dims", 0))
    depth = tuple_length(node)
    source, indices = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[1])
    dims = source.shape[batch : batch + depth]
    row = product(source.shape[batch + depth :]) * source.itemsize
    batches = product(source.shape[:batch])
    count = product(indices.shape[batch:-1])
    _emit_rows(
        low,
        (source, indices, low.write(node.outputs[0])),
        batches=batches,
        count=count,
        x_batch=product(source.shape[batch:]) * source.itemsize,
        index_batch=count * (depth * itemsize),
        row_bytes=row,
        selectors=[(dim, stride * row) for dim, stride in zip(dims, row_major(dims), strict=True)],
        itemsize=itemsize,
    )


def tuple_length(node: Node) -> int:
    """Number of indices in each tuple of input 1."""
    shape = shape_of(node.inputs[1])
    if not shape or not shape[-1].is_constant:
        raise NoKernel("the length of an index tuple depends on the shape of an input")
    return shape[-1].value


def selector_words(selectors: list[tuple[Dim, Dim]]) -> dict[str, Dim]:
    """Parameters of index tuples: length of the indexed axis and bytes of one step along it."""
    words: dict[str, Dim] = {}
    for position, (limit, step) in enumerate(selectors):
        words[f"limit{position}"] = limit
        words[f"step{position}"] = step
    return words


def _emit_rows(
    low: Lowering,
    tensors: tuple[Tensor, Tensor, Tensor],
    *,
    batches: Dim,
    count: Dim,
    x_batch: Dim,
    index_batch: Dim,
    row_bytes: Dim,
    selectors: list[tuple[Dim, Dim]],
    itemsize: int,
) -> None:
    source, indices, result = tensors
    low.call(
        KernelSpec.of(gather.ROWS.name, depth=len(selectors), index=itemsize),
        items=batches * count,
        cost=row_bytes // 8 + 2 * len(selectors),
        writes="y",
        x=source,
        indices=indices,
        y=result,
        batches=batches,
        count=count,
        x_batch=x_batch,
        index_batch=index_batch,
        row_bytes=row_bytes,
        **selector_words(selectors),
    )


@lowers("GatherElements")
def lower_gather_elements(node: Node, low: Lowering) -> None:
    """Elements picked along an axis."""
    checked(node)
    itemsize = index_size(node.inputs[1])
    if not shape_of(node.inputs[0]):
        raise NoKernel("GatherElements of a scalar")
    source, indices = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[1])
    result = low.write(node.outputs[0])
    axis = axis_of(node, source.rank)
    length, step = source.shape[axis], source.strides[axis]
    strides = [ZERO if a == axis else s for a, s in enumerate(source.strides)]
    taken = replace(source, shape=indices.shape, strides=tuple(strides))
    axes = merged_axes(taken, indices) or [Axis(ONE, (ZERO, ONE))]
    *outer, inner = axes
    rank = outer_rank(len(outer))
    chunks = ceildiv(inner.length, gather.CHUNK_ELEMENTS)
    low.call(
        KernelSpec.of(gather.ELEMENTS.name, rank=rank, itemsize=source.itemsize, index=itemsize),
        items=product([a.length for a in outer]) * chunks,
        cost=2 * minimum(inner.length, gather.CHUNK_ELEMENTS) + 2,
        writes="y",
        x=source,
        indices=indices,
        y=result,
        inner=inner.length,
        x_inner=inner.strides[0] * source.itemsize,
        chunks=chunks,
        limit=length,
        step=step * source.itemsize,
        **axis_words(rank, outer, "xi", [source.itemsize, 1]),
    )

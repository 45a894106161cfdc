"""Rules of operators that pick by index, by value or by order."""

from __future__ import annotations

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.registry import rule


@rule("Gather")
def _gather(node: Inference) -> None:
    shape, indices = node.shape(0), node.shape(1)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    node.output(0, (*shape[:axis], *indices, *shape[axis + 1 :]))
    elements = node.state.known(node.value(0))
    picked = node.state.known(node.value(1))
    if elements is None or picked is None:
        return
    wanted = [
        item.value if isinstance(item, Dim) and item.is_constant else None
        for item in picked.reshape(-1)
    ]
    if None in wanted:
        return
    size = elements.shape[axis]
    if any(index is None or not -size <= index < size for index in wanted):
        node.error(f"an index is outside axis {axis} of size {size}")
    taken = np.empty((*elements.shape[:axis], *picked.shape, *elements.shape[axis + 1 :]), object)
    taken[...] = np.take(elements, np.array(wanted, int).reshape(picked.shape), axis)
    node.output(0, elements=taken)


@rule("GatherElements")
def _gather_elements(node: Inference) -> None:
    node.same_shape(1)


@rule("GatherND")
def _gather_nd(node: Inference) -> None:
    shape, indices = node.shape(0), node.shape(1)
    batch = node.attribute("batch_dims", 0)
    if not indices or not indices[-1].is_constant:
        raise Unknown
    depth = indices[-1].value
    if batch + depth > len(shape) or batch >= len(indices):
        node.error(f"indices of {depth} and batch_dims {batch} exceed rank {len(shape)}")
    node.output(0, (*indices[:-1], *shape[batch + depth :]))


@rule("Scatter", "ScatterElements", "ScatterND")
def _scatter(node: Inference) -> None:
    node.same_shape()


@rule("Compress")
def _compress(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.attribute("axis")
    if axis is None:
        node.output(0, (node.fresh(0, 0),))
        return
    index = node.axis(axis, len(shape))
    node.output(0, (*shape[:index], node.fresh(0, index), *shape[index + 1 :]))


@rule("NonZero")
def _non_zero(node: Inference) -> None:
    rank = len(node.shape(0))
    node.output(0, (rank, node.fresh(0, 1)))


@rule("NonMaxSuppression")
def _non_max_suppression(node: Inference) -> None:
    node.output(0, (node.fresh(0, 0), 3), "int64")


@rule("OneHot")
def _one_hot(node: Inference) -> None:
    shape = node.shape(0)
    rank = len(shape) + 1
    axis = node.axis(node.attribute("axis", -1), rank)
    depth = node.state.known(node.value(1))
    size = None
    if depth is not None and depth.size == 1:
        item = depth.reshape(-1)[0]
        size = item if isinstance(item, Dim) or item is None else item.floor()
    final = node.fresh(0, axis) if size is None else size
    node.output(0, (*shape[:axis], final, *shape[axis:]))


@rule("TopK")
def _top_k(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", -1), len(shape))
    size: Dim | None
    if node.version < 10:
        size = Dim.of(node.attribute("k"))
    else:
        size = node.entries(1)[0]
    if size is not None and (-size).at_least(1):
        node.error(f"k is {size}")
    if size is not None and (size - shape[axis]).at_least(1):
        node.error(f"k is {size}, but axis {axis} has {shape[axis]} elements")
    for output in (0, 1):
        final = node.fresh(0, axis) if size is None else size
        node.output(output, (*shape[:axis], final, *shape[axis + 1 :]))
    node.output(1, dtype="int64")


@rule("Unique")
def _unique(node: Inference) -> None:
    axis = node.attribute("axis")
    count = node.fresh(0, "count")
    vector = (count,)
    for output in (1, 3):
        node.output(output, vector, "int64")
    shape = node.shape(0)
    if axis is None:
        total = Dim.of(1)
        for dim in shape:
            total = total * dim
        node.output(0, vector)
        node.output(2, (total,), "int64")
    else:
        index = node.axis(axis, len(shape))
        node.output(0, (*shape[:index], count, *shape[index + 1 :]))
        node.output(2, (shape[index],), "int64")

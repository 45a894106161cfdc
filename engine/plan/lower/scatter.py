"""Lowering of the scatter family: the data is copied, then updates are written into the copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, minimum
from engine.graph.ir import Node
from engine.kernels import cache, scatter
from engine.kernels.odometer import outer_rank
from engine.plan.lower.copies import Axis, axis_words, emit_copy
from engine.plan.lower.gather import selector_words, tuple_length
from engine.plan.lower.operands import axis_of, checked, index_size, integers, shape_of
from engine.plan.lower.views import broadcast_view
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import Tensor, product

_COMBINED: Final = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32")
"""Data types that updates can be combined in."""

_ONE_HOT_INDICES: Final = ("int32", "int64", "uint8", "float32", "float64")


def _reduction(node: Node) -> str:
    reduction = str(node.attribute("reduction", "none"))
    value = node.inputs[0]
    if reduction != "none" and value is not None and str(value.dtype) not in _COMBINED:
        raise NoKernel(f"reduction {reduction} of {value.dtype}")
    return reduction


def _options(low: Tensor, reduction: str, index: int) -> dict[str, str | int]:
    """Options of a scatter kernel; without a reduction only the element's size matters."""
    dtype = "bits" if reduction == "none" else str(low.dtype)
    return {"reduction": reduction, "dtype": dtype, "itemsize": low.itemsize, "index": index}


@lowers("ScatterElements", "Scatter")
def lower_scatter_elements(node: Node, low: Lowering) -> None:
    """Elements written along an axis."""
    checked(node)
    index = index_size(node.inputs[1])
    reduction = _reduction(node)
    if not shape_of(node.inputs[0]):
        raise NoKernel("scattering into a scalar")
    indices, updates = low.read_dense(node.inputs[1]), low.read_dense(node.inputs[2])
    source, result = low.read(node.inputs[0]), low.write(node.outputs[0])
    emit_copy(low, source, result)
    axis = axis_of(node, result.rank)
    axes = [
        Axis(indices.shape[a], (indices.strides[a], result.strides[a]))
        for a in range(result.rank)
        if a != axis
    ]
    rank = outer_rank(len(axes))
    low.call(
        KernelSpec.of(scatter.LINES.name, rank=rank, **_options(result, reduction, index)),
        items=product([a.length for a in axes]),
        cost=indices.shape[axis] * 2 + 2,
        writes="y",
        indices=indices,
        updates=updates,
        y=result,
        length=indices.shape[axis],
        i_step=indices.strides[axis],
        y_step=result.strides[axis] * result.itemsize,
        limit=result.shape[axis],
        **axis_words(rank, axes, "iy", [1, result.itemsize]),
    )


@lowers("ScatterND")
def lower_scatter_nd(node: Node, low: Lowering) -> None:
    """Rows written to tuples of indices."""
    checked(node)
    index = index_size(node.inputs[1])
    reduction = _reduction(node)
    depth = tuple_length(node)
    indices, updates = low.read_dense(node.inputs[1]), low.read_dense(node.inputs[2])
    source, result = low.read(node.inputs[0]), low.write(node.outputs[0])
    emit_copy(low, source, result)
    row = product(result.shape[depth:])
    count = product(indices.shape[:-1])
    selectors = [(result.shape[a], result.strides[a] * result.itemsize) for a in range(depth)]
    low.call(
        KernelSpec.of(scatter.ROWS.name, depth=depth, **_options(result, reduction, index)),
        items=ceildiv(row, scatter.CHUNK_ELEMENTS),
        cost=count * (minimum(row, scatter.CHUNK_ELEMENTS) * result.itemsize // 8 + 2 * depth),
        writes="y",
        indices=indices,
        updates=updates,
        y=result,
        count=count,
        row=row,
        **selector_words(selectors),
    )


@lowers("TensorScatter")
def lower_tensor_scatter(node: Node, low: Lowering) -> None:
    """A cache of sequences, with rows written into each from a position of its own."""
    checked(node)
    shape = shape_of(node.inputs[0])
    given = node.input(2)
    if given is not None and str(given.dtype) != "int64":
        raise NoKernel(f"positions of {given.dtype}")
    axis = axis_of(node, len(shape), -2)
    if axis == 0:
        raise NoKernel("the axis of sequences is the batch")
    update = low.read_dense(node.inputs[1])
    starts = None if given is None else low.read_dense(given)
    if starts is None:
        zero = low.constant(np.zeros((), np.int64), "zero")
        starts = low.contiguous(broadcast_view(zero, shape[:1]))
    result = low.write(node.outputs[0])
    emit_copy(low, low.read(node.inputs[0]), result)
    row = result.strides[axis] * result.itemsize
    low.call(
        KernelSpec.of(cache.CACHE.name, circular=node.attribute("mode", "linear") == "circular"),
        items=product(shape[:axis]),
        cost=update.shape[axis] * (row // 16 + 4),
        writes="y",
        starts=starts,
        update=update,
        y=result,
        share=product(shape[1:axis]),
        length=shape[axis],
        count=update.shape[axis],
        row_bytes=row,
    )


@lowers("OneHot")
def lower_one_hot(node: Node, low: Lowering) -> None:
    """Off values everywhere, then on values at the indices."""
    checked(node)
    assert node.inputs[0] is not None
    index = str(node.inputs[0].dtype)
    if index not in _ONE_HOT_INDICES:
        raise NoKernel(f"indices of type {index}")
    depth = _depth(node)
    indices, values = low.read_dense(node.inputs[0]), low.read_dense(node.inputs[2])
    result = low.write(node.outputs[0])
    axis = axis_of(node, result.rank, -1)
    off = replace(values, shape=(), strides=())
    emit_copy(low, broadcast_view(off, result.shape), result)
    outer, inner = product(result.shape[:axis]), product(result.shape[axis + 1 :])
    low.call(
        KernelSpec.of(scatter.ONE_HOT.name, itemsize=result.itemsize, index=index),
        items=outer * inner,
        cost=3,
        writes="y",
        indices=indices,
        values=values,
        y=result,
        outer=outer,
        inner=inner,
        depth=depth,
    )


def _depth(node: Node) -> Dim:
    value = node.inputs[1]
    if value is not None and value.data is not None:
        return Dim.of(int(value.data.reshape(-1)[0]))
    found = integers(node, 1, "depth")
    assert found is not None
    return found[0]

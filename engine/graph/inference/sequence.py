"""Rules of sequences and optionals.

The shape kept for a sequence has a fresh symbol wherever its tensors may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference, Shape, Unknown
from engine.graph.inference.registry import rule
from engine.graph.ir import Value
from engine.graph.tensors import data_type


def _item(node: Inference, value: Value) -> Shape | None:
    """Shape that the tensors of a sequence share."""
    return node.state.items.get(id(value))


def _sequence(
    node: Inference, shape: Shape | None, dtype: np.dtype[Any] | None, output: int = 0
) -> None:
    value = node.node.outputs[output]
    value.kind, value.shape = "sequence", None
    if dtype is not None:
        value.dtype = dtype
    node.state.items[id(value)] = shape


def common_shape(
    node: Inference, output: int, shapes: list[Shape | None], local: frozenset[str] = frozenset()
) -> Shape | None:
    """The dims that all `shapes` have, fresh symbols of an output where they differ.

    Dims over `local` symbols mean nothing outside and count as different.
    """
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    result: list[Dim] = []
    for axis, dims in enumerate(zip(*known, strict=True)):
        same = all(dim is dims[0] for dim in dims) and not dims[0].symbols & local
        result.append(dims[0] if same else node.fresh(output, axis))
    return tuple(result)


@rule("SequenceEmpty")
def _sequence_empty(node: Inference) -> None:
    _sequence(node, None, data_type(node.attribute("dtype", 1), "dtype"))


@rule("SequenceConstruct")
def _sequence_construct(node: Inference) -> None:
    shapes = [value.shape for value in node.present()]
    _sequence(node, common_shape(node, 0, shapes), node.value(0).dtype)


@rule("SequenceInsert")
def _sequence_insert(node: Inference) -> None:
    shapes = [_item(node, node.value(0)), node.value(1).shape]
    _sequence(node, common_shape(node, 0, shapes), node.value(1).dtype)


@rule("SequenceErase")
def _sequence_erase(node: Inference) -> None:
    _sequence(node, _item(node, node.value(0)), node.value(0).dtype)


@rule("SequenceAt")
def _sequence_at(node: Inference) -> None:
    node.output(0, dtype=node.dtype(0))
    shape = _item(node, node.value(0))
    if shape is None:
        raise Unknown
    # A symbol of the sequence stands for differing sizes; the item picked has one of its own.
    prefix = f"{node.value(0).name}_dim_"
    node.output(
        0,
        (
            node.fresh(0, axis) if any(name.startswith(prefix) for name in dim.symbols) else dim
            for axis, dim in enumerate(shape)
        ),
    )


@rule("SequenceLength")
def _sequence_length(node: Inference) -> None:
    node.output(0, ())


@rule("SplitToSequence")
def _split_to_sequence(node: Inference) -> None:
    dtype = node.dtype(0)
    _sequence(node, None, dtype)
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    middle: tuple[Dim, ...] = (Dim.of(1),)
    if not node.has(1):
        if not node.attribute("keepdims", 1):
            middle = ()
    else:
        sizes = set(node.entries(1))
        size = sizes.pop() if len(sizes) == 1 else None
        if not node.shape(1) and size is not None and not _divides(size, shape[axis]):
            size = None  # the last part is smaller
        middle = (node.fresh(0, axis) if size is None else size,)
    _sequence(node, (*shape[:axis], *middle, *shape[axis + 1 :]), dtype)


def _divides(size: Dim, total: Dim) -> bool:
    return size != 0 and total % size == 0


@rule("ConcatFromSequence")
def _concat_from_sequence(node: Inference) -> None:
    node.output(0, dtype=node.dtype(0))
    shape = _item(node, node.value(0))
    if shape is None:
        raise Unknown
    stacked = bool(node.attribute("new_axis", 0))
    axis = node.axis(node.attribute("axis"), len(shape) + stacked)
    rest = shape[axis:] if stacked else shape[axis + 1 :]
    node.output(0, (*shape[:axis], node.fresh(0, axis), *rest))


@rule("SequenceMap")
def _sequence_map(node: Inference) -> None:
    body = node.attribute("body")
    for formal, actual in zip(body.inputs, node.node.inputs, strict=False):
        if actual is not None:
            formal.kind, formal.dtype = "tensor", actual.dtype
            formal.shape = _item(node, actual) if actual.kind == "sequence" else actual.shape
    created = dict(node.state.created)
    node.state.walk(body, node.state, body)
    local = frozenset(name for name in node.state.created if name not in created)
    for output, inner in enumerate(body.outputs):
        _sequence(node, common_shape(node, output, [inner.shape], local), inner.dtype, output)


@rule("Optional")
def _optional(node: Inference) -> None:
    target = node.node.outputs[0]
    target.kind, target.shape = "optional", None
    if node.has(0):
        source = node.value(0)
        target.dtype = source.dtype
        shape = source.shape if source.kind == "tensor" else _item(node, source)
        node.state.items[id(target)] = shape


@rule("OptionalHasElement")
def _optional_has_element(node: Inference) -> None:
    node.output(0, (), np.bool_)


@rule("OptionalGetElement")
def _optional_get_element(node: Inference) -> None:
    source, target = node.value(0), node.node.outputs[0]
    target.dtype = source.dtype
    if source.kind == "tensor":
        node.output(0, node.shape(0), source.dtype)
        return
    # Whether a tensor or a sequence is inside, only the file's declaration tells.
    shape = _item(node, source)
    if target.kind == "tensor":
        target.shape = shape
    else:
        node.state.items[id(target)] = shape

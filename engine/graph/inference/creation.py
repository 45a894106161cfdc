"""Rules of operators that make tensors from sizes or attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.dims import Dim, ceildiv, maximum
from engine.graph.inference.context import Inference, Shape
from engine.graph.inference.elements import MAX_ELEMENTS, Real, from_data, vector
from engine.graph.inference.registry import rule
from engine.graph.tensors import data_type


def _declared_type(node: Inference, name: str, default: int | None) -> Any:
    number = node.attribute(name, default)
    return None if number is None else data_type(number, f"node {node.node.label!r}: {name}")


@rule("ConstantOfShape")
def _constant_of_shape(node: Inference) -> None:
    fill = node.attribute("value")
    fill = np.zeros(1, np.float32) if fill is None else np.asarray(fill)
    node.output(0, dtype=fill.dtype)
    sizes = node.entries(0)
    shape = [node.fresh(0, a) if size is None else size for a, size in enumerate(sizes)]
    node.output(0, shape)
    if all(dim.is_constant for dim in shape):
        counts = [dim.value for dim in shape]
        items = from_data(fill.reshape(-1))
        if items is not None and np.prod(counts, dtype=object) <= MAX_ELEMENTS:
            node.output(0, elements=np.full(counts, items[0], object))


@rule("Constant")
def _constant(node: Inference) -> None:
    value = node.attribute("value")
    if isinstance(value, np.ndarray):
        node.output(0, value.shape, value.dtype, from_data(value))


@rule("RandomNormal", "RandomUniform")
def _random(node: Inference) -> None:
    node.output(0, node.attribute("shape"), _declared_type(node, "dtype", 1))


@rule("RandomNormalLike", "RandomUniformLike")
def _random_like(node: Inference) -> None:
    node.output(0, dtype=_declared_type(node, "dtype", None) or node.dtype(0))
    node.same_shape()


@rule("Multinomial")
def _multinomial(node: Inference) -> None:
    node.output(0, dtype=_declared_type(node, "dtype", 6))
    node.output(0, (node.shape(0)[0], node.attribute("sample_size", 1)))


@rule("Range")
def _range_of(node: Inference) -> None:
    node.output(0, (node.fresh(0, 0),))
    items = []
    for index in range(3):
        known = node.state.known(node.value(index))
        if known is None or known.size != 1:
            return
        items.append(known.reshape(-1)[0])
    start, limit, delta = items
    if all(isinstance(item, Real) for item in items):
        numbers = [item.constant for item in items]
        if None not in numbers and numbers[2]:
            dtype = node.dtype(0).type
            first, last, step = (dtype(number) for number in numbers)
            node.output(0, (max(0, int(np.ceil((last - first) / step))),))
            return
        if not all(item.whole for item in items):
            return
        start, limit, delta = (item.dim for item in items)
    if not all(isinstance(item, Dim) for item in (start, limit, delta)) or delta == 0:
        return
    count = maximum(ceildiv(limit - start, delta), 0)
    elements = None
    if count.is_constant and count.value <= MAX_ELEMENTS and node.dtype(0).kind == "i":
        elements = vector(start + delta * step for step in range(count.value))
    node.output(0, (count,), elements=elements)


@rule("BlackmanWindow", "HammingWindow", "HannWindow")
def _window(node: Inference) -> None:
    node.output(0, dtype=_declared_type(node, "output_datatype", 1))
    node.output(0, (_size(node, 0, 0),))


@rule("MelWeightMatrix")
def _mel_weights(node: Inference) -> None:
    node.output(0, dtype=_declared_type(node, "output_datatype", 1))
    bins, length = node.entries(0)[0], node.entries(1)[0]
    rows = node.fresh(0, 0) if length is None else length // 2 + 1
    node.output(0, (rows, node.fresh(0, 1) if bins is None else bins))


def _size(node: Inference, index: int, axis: int) -> Dim:
    size = node.entries(index)[0]
    return node.fresh(0, axis) if size is None else size


@rule("AffineGrid")
def _affine_grid(node: Inference) -> None:
    sizes: list[Dim] = []
    entries = node.entries(1)
    for axis, size in enumerate(entries):
        sizes.append(node.fresh(0, axis) if size is None else size)
    spatial: Shape = tuple(sizes[2:])
    node.output(0, (sizes[0], *spatial, len(spatial)))

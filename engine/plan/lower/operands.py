"""Checks that lowerings share: each raises NoKernel with the reason before anything is emitted."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.plan.lower.known import known_dims
from engine.plan.lowering import NoKernel

INDEX_TYPES: Final = ("int32", "int64")


def shape_of(value: Value | None) -> tuple[Dim, ...]:
    """Shape of a tensor of a fixed-size data type."""
    if value is None:
        raise NoKernel("a required input is omitted")
    if value.shape is None or value.dtype is None:
        raise NoKernel(f"the rank or data type of {value.name} is not known")
    if value.dtype.kind == "O" or value.dtype.itemsize not in (1, 2, 4, 8):
        raise NoKernel(f"{value.name} is of type {value.dtype}")
    return value.shape


def checked(node: Node) -> None:
    """All inputs and outputs are tensors of known rank and fixed-size data type."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name:
            shape_of(value)


def integers(
    node: Node, index: int, attribute: str, default: list[int] | None = None
) -> tuple[Dim, ...] | None:
    """Integers from input `index`, or from an attribute where older versions have them.

    None where they are omitted and there is no default; NoKernel where only a run knows them.
    """
    value = node.input(index)
    if value is not None:
        found = known_dims(value)
        if found is None:
            raise NoKernel(f"input {value.name} ({attribute}) is known only at run time")
        return found
    listed = node.attribute(attribute, default)
    if listed is None:
        return None
    return tuple(Dim.of(int(item)) for item in np.asarray(listed).reshape(-1))


def constants(dims: tuple[Dim, ...], what: str) -> list[int]:
    """Values of constant dims."""
    if not all(dim.is_constant for dim in dims):
        raise NoKernel(f"{what} depends on the shape of an input")
    return [dim.value for dim in dims]


def index_size(value: Value | None) -> int:
    """Bytes of an element of an index tensor."""
    shape_of(value)
    assert value is not None
    if str(value.dtype) not in INDEX_TYPES:
        raise NoKernel(f"indices {value.name} are of type {value.dtype}, not int32 or int64")
    assert value.dtype is not None
    return int(value.dtype.itemsize)


def axis_of(node: Node, rank: int, default: int = 0, name: str = "axis") -> int:
    """Attribute `axis` counted from the front."""
    axis = int(node.attribute(name, default))
    return axis + rank if axis < 0 else axis

"""Batches of requests of different lengths: a flat tensor per name, and the sizes of each request.

Where a model takes sequences [batch, length, ...] and its session runs sequences of different
lengths together, requests need not agree in their length. Their tensors then travel as the elements
of all requests one behind the other, without padding; the shapes follow from the description of the
model and from two numbers per request, its rows and its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from cluster.session import Tensor, Tensors


class RaggedAxes(NamedTuple):
    """Names of the two symbolic dimensions of a model's inputs."""

    batch: str
    length: str


class _Described(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int | str, ...]: ...


def sizes_of(
    axes: RaggedAxes, inputs: Sequence[_Described], part: Mapping[str, Tensor]
) -> tuple[int, int]:
    """Rows and length of a request that fits the description of the model's inputs."""
    found = {
        name: size
        for tensor in inputs
        for name, size in zip(tensor.shape, part[tensor.name].shape, strict=True)
    }
    return found[axes.batch], found[axes.length]


def known_shapes(axes: RaggedAxes, tensors: Sequence[_Described]) -> bool:
    """Whether rows and length tell the shapes of tensors."""
    return all(isinstance(dim, int) or dim in axes for tensor in tensors for dim in tensor.shape)


def flatten(parts: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The elements of the tensors of several requests, one behind the other."""
    return {name: np.concatenate([part[name].reshape(-1) for part in parts]) for name in parts[0]}


def split(
    axes: RaggedAxes,
    tensors: Sequence[_Described],
    flat: Mapping[str, Tensor],
    sizes: Sequence[tuple[int, int]],
) -> list[Tensors]:
    """The tensors of every request, as views; raises `ValueError` where their sizes differ."""
    described = {tensor.name: tensor.shape for tensor in tensors}
    parts: list[Tensors] = [{} for _ in sizes]
    for name, array in flat.items():
        position = 0
        for part, (rows, length) in zip(parts, sizes, strict=True):
            known: dict[int | str, int] = {axes.batch: rows, axes.length: length}
            shape = [dim if isinstance(dim, int) else known[dim] for dim in described[name]]
            end = position + prod(shape)
            part[name] = array[position:end].reshape(shape)
            position = end
        if array.ndim != 1 or position != len(array):
            raise ValueError(f"'{name}' has {array.size} elements; the requests make {position}")
    return parts

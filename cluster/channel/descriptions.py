"""Descriptions of models as messages carry them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.channel.tensors import DTYPES
from cluster.channel.wire import WireError
from cluster.description import ModelDescription, TensorDescription


def pack_description(description: ModelDescription) -> dict[str, Any]:
    """The JSON form of a description."""

    def listing(tensors: tuple[TensorDescription, ...]) -> list[list[Any]]:
        return [[t.name, t.dtype.name, list(t.shape)] for t in tensors]

    return {
        "inputs": listing(description.inputs),
        "outputs": listing(description.outputs),
        "batch_axis": description.batch_axis,
        "batch_reason": description.batch_reason,
    }


def unpack_description(data: Any) -> ModelDescription:
    """The description that `pack_description` wrote; raises `WireError`."""
    match data:
        case {
            "inputs": [*inputs],
            "outputs": [*outputs],
            "batch_axis": bool(batch_axis),
            "batch_reason": str(reason),
        }:
            return ModelDescription(_tensors(inputs), _tensors(outputs), batch_axis, reason)
    raise WireError("a model's description cannot be read")


def _tensors(entries: list[Any]) -> tuple[TensorDescription, ...]:
    tensors = []
    for entry in entries:
        match entry:
            case [str(name), str(kind), [*shape]] if all(type(dim) in (int, str) for dim in shape):
                dtype = DTYPES.get(kind, np.dtype(object))
                tensors.append(TensorDescription(name, dtype, tuple(shape)))
            case _:
                raise WireError("the description of a tensor cannot be read")
    return tuple(tensors)

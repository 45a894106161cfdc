"""Descriptions of models as messages carry them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.channel.tensors import DTYPES
from cluster.channel.wire import WireError
from cluster.description import ModelDescription, TensorDescription
from cluster.ragged import RaggedAxes, known_shapes


def pack_description(description: ModelDescription) -> dict[str, Any]:
    """The JSON form of a description."""

    def listing(tensors: tuple[TensorDescription, ...]) -> list[list[Any]]:
        return [[t.name, t.dtype.name, list(t.shape)] for t in tensors]

    return {
        "inputs": listing(description.inputs),
        "outputs": listing(description.outputs),
        "batch_axis": description.batch_axis,
        "batch_reason": description.batch_reason,
        "ragged": list(description.ragged) if description.ragged is not None else None,
    }


def unpack_description(data: Any) -> ModelDescription:
    """The description that `pack_description` wrote; raises `WireError`."""
    match data:
        case {
            "inputs": [*inputs],
            "outputs": [*outputs],
            "batch_axis": bool(batch_axis),
            "batch_reason": str(reason),
            "ragged": None | [str(), str()] as ragged,
        }:
            axes = None if ragged is None else RaggedAxes(*ragged)
            found = _tensors(inputs), _tensors(outputs)
            if axes is None or known_shapes(axes, (*found[0], *found[1])):
                return ModelDescription(*found, batch_axis, reason, axes)
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

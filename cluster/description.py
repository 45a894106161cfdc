"""What a loaded model takes and gives, and the check of a request against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.ragged import RaggedAxes, known_shapes
from cluster.session import RaggedSession, Session, Tensor
from engine.errors import InputError


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """One input or output; a `str` dimension is symbolic, strings have dtype `object`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Inputs and outputs of a loaded model, and whether its requests may share a batch."""

    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    batch_axis: bool
    batch_reason: str
    ragged: RaggedAxes | None = None
    """The axes in which requests that share a batch may differ; None where only the first may."""

    @classmethod
    def of(cls, session: Session) -> ModelDescription:
        """Describe a session."""
        inputs = tuple(TensorDescription(t.name, t.dtype, tuple(t.shape)) for t in session.inputs)
        outputs = tuple(TensorDescription(t.name, t.dtype, tuple(t.shape)) for t in session.outputs)
        names = session.ragged_axes if isinstance(session, RaggedSession) else None
        axes = None if names is None else RaggedAxes(*names)
        if axes is not None and not known_shapes(axes, (*inputs, *outputs)):
            axes = None
        return cls(inputs, outputs, bool(session.batch_axis), session.batch_reason, axes)

    def check(self, model: str, inputs: Mapping[str, Tensor]) -> None:
        """Raise `InputError` unless names, element types, ranks and sizes fit the model.

        Checked before a request is queued, so that a request that cannot run never joins a batch.
        A symbolic dimension takes any size, but the same one wherever its name appears.
        """
        bound: dict[str, tuple[int, str]] = {}
        for tensor in self.inputs:
            array = inputs.get(tensor.name)
            if array is None:
                raise InputError(
                    f"model '{model}': input '{tensor.name}' is missing; "
                    f"got {_names(inputs)}, need {_names(t.name for t in self.inputs)}"
                )
            self._check_tensor(model, tensor, array, bound)
        if len(inputs) > len(self.inputs):
            known = {tensor.name for tensor in self.inputs}
            extra = [name for name in inputs if name not in known]
            raise InputError(
                f"model '{model}' has no input {_names(extra)}; its inputs are {_names(known)}"
            )

    def _check_tensor(
        self,
        model: str,
        tensor: TensorDescription,
        array: Tensor,
        bound: dict[str, tuple[int, str]],
    ) -> None:
        where = f"model '{model}', input '{tensor.name}'"
        if array.dtype != tensor.dtype:
            raise InputError(f"{where}: data type is {array.dtype}, must be {tensor.dtype}")
        if array.ndim != len(tensor.shape):
            raise InputError(
                f"{where}: shape {list(array.shape)} has {array.ndim} dimensions, "
                f"must have {len(tensor.shape)}: {shape_text(tensor.shape)}"
            )
        for axis, (size, wanted) in enumerate(zip(array.shape, tensor.shape, strict=True)):
            if isinstance(wanted, int):
                if size != wanted:
                    raise InputError(
                        f"{where}: shape {list(array.shape)} has {size} at axis {axis}, "
                        f"must be {wanted}: {shape_text(tensor.shape)}"
                    )
                continue
            first, owner = bound.setdefault(wanted, (size, tensor.name))
            if first != size:
                raise InputError(
                    f"{where}: dimension '{wanted}' is {size} at axis {axis}, "
                    f"but {first} in input '{owner}'; both must be equal"
                )


def shape_text(shape: tuple[int | str, ...]) -> str:
    """A shape for people: `[N, 3, 224, 224]`."""
    return "[" + ", ".join(str(dim) for dim in shape) + "]"


def _names(names: Any) -> str:
    listed = sorted(names)
    shown = ", ".join(f"'{name}'" for name in listed[:20])
    if len(listed) > 20:
        shown += f" and {len(listed) - 20} more"
    return shown or "none"

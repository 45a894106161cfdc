"""Sequences, optionals and maps as tensors, because the protocol has nothing else.

What a model takes or gives that is no tensor travels as a vector of strings (``BYTES``), of one
JSON text per element: a map is an object of its values by key; a tensor is
``{"datatype": "float32", "shape": [2, 3], "data": [...]}``, its data flat and row-major. A sequence
has one text per element, so ZipMap gives one per row; an optional has none or one, and an optional
sequence is one text that holds a list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

import engine
from cluster.session import Session, Tensor, Tensors
from engine.errors import InputError

_TEXT: Final = np.dtype(object)


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


def _described(spec: engine.TensorSpec) -> _Spec:
    if spec.kind == "tensor":
        return _Spec(spec.name, spec.dtype, spec.shape)
    return _Spec(spec.name, _TEXT, (f"elements of {spec.name}",))


def with_tensors(session: engine.Session) -> Session:
    """The session itself where it has tensors alone, else one that translates."""
    specs = (*session.inputs, *session.outputs)
    return session if all(s.kind == "tensor" for s in specs) else ContainerSession(session)


class ContainerSession:
    """A session of tensors around one with sequences, optionals or maps."""

    def __init__(self, session: engine.Session) -> None:
        self._session = session
        self._containers = {spec.name: spec for spec in session.inputs if spec.kind != "tensor"}
        self._tensors = {spec.name for spec in session.outputs if spec.kind == "tensor"}
        self.inputs: Sequence[_Spec] = [_described(spec) for spec in session.inputs]
        self.outputs: Sequence[_Spec] = [_described(spec) for spec in session.outputs]
        self.batch_axis = False
        self.batch_reason = "an input or output is no tensor"

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> Tensors:
        """As `engine.Session.run`; raises InputError for texts that are no elements."""
        return self._encoded(self._session.run(self._decoded(inputs), outputs))

    async def run_async(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> Tensors:
        """As `run`, awaiting completion on the running asyncio loop."""
        return self._encoded(await self._session.run_async(self._decoded(inputs), outputs))

    def stats(self) -> Mapping[str, int | float]:
        """Counters of the session."""
        return self._session.stats()

    def close(self) -> None:
        """Free what the session holds."""
        self._session.close()

    def _decoded(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            name: _decode(array, self._containers[name]) if name in self._containers else array
            for name, array in inputs.items()
        }

    def _encoded(self, results: Mapping[str, Any]) -> Tensors:
        return {
            name: result if name in self._tensors else _encode(result)
            for name, result in results.items()
        }


def _decode(texts: Tensor, spec: engine.TensorSpec) -> Any:
    """The list, optional or map that a vector of texts stands for."""
    elements = [_element(text, spec) for text in texts.reshape(-1).tolist()]
    if spec.kind == "sequence":
        return elements
    if len(elements) > 1:
        raise InputError(f"input {spec.name!r} has {len(elements)} elements; it takes one at most")
    return elements[0] if elements else None


def _element(text: Any, spec: engine.TensorSpec) -> Any:
    where = f"input {spec.name!r}"
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: an element is no JSON text: {error}") from None
    if spec.kind == "map" and isinstance(found, dict):
        return found
    if isinstance(found, list) and spec.kind == "optional":
        return [_tensor(item, spec, where) for item in found]
    return _tensor(found, spec, where)


def _tensor(content: Any, spec: engine.TensorSpec, where: str) -> Tensor:
    match content:
        case {"shape": [*shape], "data": [*data]}:
            name = content.get("datatype", spec.dtype.name)
        case _:
            raise InputError(f"{where}: an element must be an object with 'shape' and 'data'")
    if name != spec.dtype.name:
        raise InputError(f"{where}: an element is of type {name!r}; must be {spec.dtype.name}")
    if not all(type(size) is int and size >= 0 for size in shape) or prod(shape) != len(data):
        raise InputError(f"{where}: {len(data)} numbers do not make an element of shape {shape}")
    kinds = {bool, int, float} if spec.dtype.kind != "O" else {str}
    if not {type(item) for item in data} <= kinds:
        raise InputError(f"{where}: the data of an element must be flat, of type {name}")
    try:
        return np.array(data, spec.dtype).reshape(shape)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{where}: an element does not fit {name}: {error}") from None


def _encode(result: Any) -> Tensor:
    """The vector of texts for a list, an optional or a map."""
    elements = result if isinstance(result, list) else [] if result is None else [result]
    texts = np.empty(len(elements), _TEXT)
    texts[:] = [json.dumps(_plain(element)) for element in elements]
    return texts


def _plain(element: Any) -> Any:
    if isinstance(element, list):
        return [_plain(item) for item in element]
    if isinstance(element, np.ndarray | np.generic):
        array = np.asarray(element)
        numbers = array.astype(np.float32) if array.dtype.kind == "V" else array
        data = numbers.reshape(-1).tolist()
        return {"datatype": array.dtype.name, "shape": list(array.shape), "data": data}
    return element

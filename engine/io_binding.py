"""Arrays bound to a session's inputs and outputs, as in onnxruntime's Python interface."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from engine.errors import InputError
from engine.specification import TensorSpec

Array = np.ndarray[Any, Any]

_CPU: Final = "cpu"


class OrtValue:
    """An array under onnxruntime's name for a value; it shares the array's memory."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: Array, device_type: str = _CPU, device_id: int = 0
    ) -> OrtValue:
        """The value of an array. Raises InputError for a device other than the CPU."""
        _check_device(device_type)
        return cls(numpy_obj)

    def numpy(self) -> Any:
        """The array itself."""
        return self._array

    def shape(self) -> list[int]:
        """Sizes of the array."""
        return list(self._array.shape)

    def data_type(self) -> str:
        """The numpy name of the element type."""
        return str(self._array.dtype)

    def device_name(self) -> str:
        """Where the array lies: on the CPU."""
        return _CPU

    def is_tensor(self) -> bool:
        """Whether the value is one array."""
        return isinstance(self._array, np.ndarray)


class IOBinding:
    """Inputs and outputs of the runs to come; made by `InferenceSession.io_binding`.

    Inputs are read where they lie, at every run. An output that is bound to memory is written
    there; one that is bound to a device only is kept until the next run.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = {spec.name: spec for spec in outputs}
        self._targets: dict[str, Array | None] = {}
        self._results: dict[str, Any] = {}
        self.feed: dict[str, Any] = {}

    @property
    def output_names(self) -> list[str]:
        """The bound outputs, in the order of binding."""
        return list(self._targets)

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """Read the input from an array. Raises InputError for an unknown name."""
        self.feed[_known(name, self._inputs, "input")] = arr_on_cpu

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Read the input from an address, which must stay valid, of a C-contiguous array.

        `element_type` is a numpy type or the number of an ONNX element type.
        """
        _check_device(device_type)
        self.bind_cpu_input(name, _view(buffer_ptr, element_type, shape))

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        """Read the input from a value."""
        self.bind_cpu_input(name, ortvalue.numpy())

    def bind_output(
        self,
        name: str,
        device_type: str = _CPU,
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Compute this output; with `buffer_ptr`, write it there, else keep it."""
        _check_device(device_type)
        name = _known(name, self._outputs, "output")
        target = None
        if buffer_ptr is not None:
            if shape is None or element_type is None:
                raise InputError(f"output {name!r}: memory needs `element_type` and `shape` too")
            target = _view(buffer_ptr, element_type, shape)
        self._targets[name] = target

    def bind_ortvalue_output(self, name: str, ortvalue: Any) -> None:
        """Write the output into a value's memory."""
        self._targets[_known(name, self._outputs, "output")] = ortvalue.numpy()

    def keep(self, results: Mapping[str, Any]) -> None:
        """Take over the results of a run. Raises InputError where one does not fit its memory."""
        self._results = dict(results)
        for name, target in self._targets.items():
            if target is None:
                continue
            found = results[name]
            if found.shape != target.shape or found.dtype != target.dtype:
                raise InputError(
                    f"output {name!r} is {found.dtype}{list(found.shape)}; the memory bound to it "
                    f"is for {target.dtype}{list(target.shape)}"
                )
            np.copyto(target, found)
            self._results[name] = target

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run."""
        return list(self._results.values())

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, as values."""
        return [OrtValue(array) for array in self._results.values()]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self.feed.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self._targets.clear()
        self._results = {}

    def synchronize_inputs(self) -> None:
        """Nothing to wait for on a CPU."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for on a CPU."""


def _known(name: str, specs: Mapping[str, TensorSpec], what: str) -> str:
    if name not in specs:
        raise InputError(f"there is no {what} {name!r}; {what}s are {', '.join(specs)}")
    return name


def _check_device(device_type: str) -> None:
    if device_type.lower() != _CPU:
        raise InputError(f"device {device_type!r}: only {_CPU!r} is here")


def _view(address: int, element_type: Any, shape: Sequence[int]) -> Array:
    if isinstance(element_type, int):
        from onnx.helper import tensor_dtype_to_np_dtype

        element_type = tensor_dtype_to_np_dtype(element_type)
    dtype = np.dtype(element_type)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject or size < 0 or (size and not address):
        raise InputError(f"no memory for {dtype}{list(shape)} at address {address}")
    if not size:
        return np.empty(tuple(shape), dtype)
    memory = (ctypes.c_byte * size).from_address(address)
    return np.frombuffer(memory, dtype).reshape(tuple(shape))

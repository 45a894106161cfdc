"""Tensors of a model file as numpy arrays.

Nothing is allocated for what a tensor merely declares: the bytes that its shape and data type need
must equal the bytes it brings, and the declared bytes of all tensors together must fit the budget.
"""

from __future__ import annotations

import math
import os
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelError
from engine.graph.external_data import ExternalData
from engine.graph.ir import AnyArray

MAX_RANK: Final = 64
"""Most axes numpy can hold."""

_MAX_DIM: Final = 2**48

_BITS: Final[dict[int, int]] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
    TensorProto.FLOAT6E2M3: 6,
    TensorProto.FLOAT6E3M2: 6,
}
"""Bits per element of the packed types; all others take whole bytes."""


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def data_type(number: int, where: str) -> np.dtype[np.generic]:
    """Numpy type of an ONNX element type: ml_dtypes for the small ones, object for strings."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(number))
    except KeyError:
        known = max(TensorProto.DataType.values())
        raise ModelError(
            f"{where}: element type {number} is undefined or unknown; the newest known is {known}"
        ) from None


class TensorReader:
    """Reads the tensors of one model.

    `external` is None where the model has no folder of its own (it came as bytes). `budget` is
    the most bytes that all tensors together may declare.
    """

    def __init__(self, external: ExternalData | None, budget: int | None = None) -> None:
        self._external = external
        self._budget = physical_memory() if budget is None else budget
        self._declared = 0

    def read(self, tensor: TensorProto, where: str) -> AnyArray:
        """Array of a tensor; read only where it shares the file's bytes. Raises ModelError."""
        shape = _shape(tensor.dims, where)
        count = math.prod(shape)
        dtype = data_type(tensor.data_type, where)
        if tensor.HasField("segment"):
            raise ModelError(f"{where}: segmented tensors are not supported; export it whole")
        self._charge(count * dtype.itemsize, where)
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external_array(tensor, shape, count, where)
        if tensor.data_type == TensorProto.STRING:
            return _strings(tensor, shape, count, where)
        if tensor.HasField("raw_data"):
            data = np.frombuffer(tensor.raw_data, np.uint8)
            return _from_bytes(data, tensor.data_type, shape, count, where)
        return _typed(tensor, shape, count, where)

    def read_sparse(self, sparse: onnx.SparseTensorProto, where: str) -> AnyArray:
        """Dense array of a sparse tensor (COO, linear or one row of coordinates per value)."""
        shape = _shape(sparse.dims, where)
        values = self.read(sparse.values, where)
        indices = self.read(sparse.indices, where)
        self._charge(math.prod(shape) * values.dtype.itemsize, where)
        dense = np.zeros(shape, values.dtype)
        count = values.size
        if values.ndim != 1 or indices.dtype != np.int64 or indices.shape[:1] != (count,):
            raise ModelError(f"{where}: a sparse tensor needs 1-D values and one index for each")
        if indices.ndim == 2 and indices.shape[1] == len(shape):
            valid = bool(np.all((indices >= 0) & (indices < np.array(shape, np.int64))))
            positions = tuple(indices.T)
        elif indices.ndim == 1:
            valid = bool(np.all((indices >= 0) & (indices < dense.size)))
            positions = np.unravel_index(indices, shape) if valid and shape else ()
        else:
            valid, positions = False, ()
        if not valid:
            raise ModelError(f"{where}: indices of the sparse tensor lie outside shape {shape}")
        dense[positions] = values
        return dense

    def _charge(self, size: int, where: str) -> None:
        self._declared += size
        if self._declared > self._budget:
            raise ModelError(
                f"{where}: the tensors declared so far need {self._declared / 2**30:.1f} GiB, more "
                f"than the {self._budget / 2**30:.1f} GiB of memory here; use a larger machine or "
                "a smaller model"
            )

    def _external_array(
        self, tensor: TensorProto, shape: tuple[int, ...], count: int, where: str
    ) -> AnyArray:
        if self._external is None:
            raise ModelError(
                f"{where}: its data lies in another file, which a model given as bytes cannot "
                "have; load the model by its path, or save it with its data inside"
            )
        if tensor.data_type == TensorProto.STRING:
            raise ModelError(f"{where}: strings cannot be external data")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not all(isinstance(text, str) for entry in entries.items() for text in entry):
            raise ModelError(f"{where}: its external data is described by text that is not UTF-8")
        expected = _byte_count(tensor.data_type, count)
        data = self._external.bytes_of(entries, expected, where)
        return _from_bytes(data, tensor.data_type, shape, count, where)


def _shape(dims: object, where: str) -> tuple[int, ...]:
    shape = tuple(int(d) for d in dims)  # type: ignore[attr-defined]
    if len(shape) > MAX_RANK or any(not 0 <= d <= _MAX_DIM for d in shape):
        raise ModelError(
            f"{where}: shape {shape[:8]} with {len(shape)} axes is impossible; a tensor has at "
            f"most {MAX_RANK} axes of 0 to {_MAX_DIM} elements"
        )
    return shape


def _byte_count(number: int, count: int) -> int:
    bits = _BITS.get(number)
    if bits is not None:
        return (count * bits + 7) // 8
    return count * int(data_type(number, "tensor").itemsize)


def _from_bytes(
    data: AnyArray, number: int, shape: tuple[int, ...], count: int, where: str
) -> AnyArray:
    """Array over little-endian bytes, which are shared unless packed, boolean or unaligned."""
    expected = _byte_count(number, count)
    if data.size != expected:
        raise ModelError(
            f"{where}: shape {shape} of {TensorProto.DataType.Name(number)} needs {expected} "
            f"bytes, but {data.size} are there; the file is damaged"
        )
    if number in _BITS:
        packed = TensorProto(data_type=number, dims=shape, raw_data=data.tobytes())
        return np.asarray(numpy_helper.to_array(packed))
    dtype = data_type(number, where)
    array: AnyArray
    if dtype == np.bool_:
        array = data != 0
        return array.reshape(shape)
    array = data.view(dtype) if count else np.empty(0, dtype)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _typed(tensor: TensorProto, shape: tuple[int, ...], count: int, where: str) -> AnyArray:
    """Array of a tensor that brings its elements in a typed field."""
    field = helper.tensor_dtype_to_field(tensor.data_type)
    present = len(getattr(tensor, field))
    expected = count
    if tensor.data_type in _BITS:
        per_item = 8 // _BITS[tensor.data_type]
        expected = -(-count // per_item)
    elif data_type(tensor.data_type, where).kind == "c":
        expected = 2 * count
    if present != expected:
        raise ModelError(
            f"{where}: shape {shape} of {TensorProto.DataType.Name(tensor.data_type)} needs "
            f"{expected} entries in {field}, but {present} are there; the file is damaged"
        )
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{where}: its data cannot be read: {error}") from error


def _strings(tensor: TensorProto, shape: tuple[int, ...], count: int, where: str) -> AnyArray:
    if len(tensor.string_data) != count:
        raise ModelError(
            f"{where}: shape {shape} needs {count} strings, but {len(tensor.string_data)} are "
            "there; the file is damaged"
        )
    array = np.empty(count, object)
    try:
        for index, item in enumerate(tensor.string_data):
            array[index] = item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{where}: string {index} is not UTF-8: {error.reason}") from error
    return array.reshape(shape)

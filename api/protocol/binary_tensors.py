"""Tensor data as bytes after the JSON part: little-endian, row-major, no copies for numbers."""

from __future__ import annotations

import struct
from math import prod
from typing import Any

import numpy as np

from api.errors import BadRequestError
from api.protocol.datatypes import DTYPES
from cluster.session import Tensor

_LENGTH = struct.Struct("<I")


def parse_binary(raw: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Tensor:
    """A tensor over the bytes `raw`; a view of them unless it holds strings or odd booleans.

    Strings become `str`; bytes that are not UTF-8 are kept as surrogate escapes, so that they come
    back out unchanged. Raises `BadRequestError` if the size does not match the shape.
    """
    count = prod(shape)
    if datatype == "BYTES":
        return _parse_strings(raw, count, where).reshape(shape)
    dtype = DTYPES[datatype]
    if raw.nbytes != count * dtype.itemsize:
        raise BadRequestError(
            f"{where}: {raw.nbytes} bytes of binary data, but {datatype} of shape {list(shape)} "
            f"needs {count * dtype.itemsize}"
        )
    if datatype == "BOOL":
        flags = np.frombuffer(raw, np.uint8)
        tidy = flags.view(np.bool_) if flags.max(initial=0) <= 1 else flags != 0
        return tidy.reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _parse_strings(raw: memoryview, count: int, where: str) -> Tensor:
    # Every element takes at least its length, so the size bounds what is allocated here.
    if count * _LENGTH.size > raw.nbytes:
        raise BadRequestError(
            f"{where}: {raw.nbytes} bytes of binary data cannot hold {count} BYTES elements"
        )
    tensor = np.empty(count, object)
    data = raw.tobytes()
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        if start > len(data):
            raise BadRequestError(f"{where}: BYTES element {index} has no length")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if position > len(data):
            raise BadRequestError(
                f"{where}: BYTES element {index} of {length} bytes reaches past the end"
            )
        tensor[index] = data[start:position].decode("utf-8", "surrogateescape")
    if position != len(data):
        raise BadRequestError(
            f"{where}: {len(data) - position} bytes remain after {count} BYTES elements"
        )
    return tensor


def dump_binary(tensor: Tensor) -> memoryview | bytes:
    """The bytes of a tensor; a view of it where it is contiguous already."""
    if tensor.dtype.kind in "OSU":
        return b"".join(_dump_string(item) for item in tensor.reshape(-1).tolist())
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def _dump_string(item: Any) -> bytes:
    data = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else bytes(item)
    return _LENGTH.pack(len(data)) + data

"""Tensors as messages carry them: their bytes in frames, or in blocks of shared memory.

A message lists its tensors as `[name, data type, shape, block]`, where a block is `[offset, bytes]`
in the arena of the link, `[offset, bytes, "buffers"]` where the gateway has received the request
there, and null stands for the next frame. Numbers are their own bytes, little-endian and row-major;
strings are UTF-8 with their length before each.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from cluster.channel.arena import Arena, Mapping
from cluster.channel.buffers import Buffers
from cluster.channel.copying import join
from cluster.channel.wire import WireError
from cluster.session import Tensor, Tensors

SHARED_BYTES: Final = 64 << 10
"""Tensors from this size on go through shared memory where both sides see it."""

_MAX_RANK: Final = 64
_LENGTH: Final = struct.Struct("<I")

_STRINGS: Final = "str"

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    dtype.name: dtype
    for dtype in map(
        np.dtype,
        [
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64", "complex64", "complex128"),
            *(ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn),
            *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e8m0fnu),
            *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int2, ml_dtypes.uint2),
        ],
    )
} | {_STRINGS: np.dtype(object)}
"""Data types that travel, by the name they have in a message."""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(slots=True)
class Parcel:
    """Tensors on their way: what the message says of them, their frames, their blocks."""

    listing: list[Any] = field(default_factory=list)
    frames: list[bytes | memoryview] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


class UnsendableError(TypeError):
    """A value that has no form on the wire, for example a list of tensors."""


def pack_batch(
    parts: Sequence[AbstractMapping[str, Tensor]],
    arena: Arena | None,
    buffers: Buffers | None = None,
) -> Parcel:
    """The inputs of a batch, the parts of each joined along axis 0 where they are to be read.

    A single part that lies in `buffers`, which the other side has mapped, is not copied at all.
    Raises `UnsendableError`, or `ValueError` for parts that cannot be joined.
    """
    parcel = Parcel()
    try:
        for name in parts[0]:
            _pack(parcel, name, [part[name] for part in parts], arena, buffers)
    except BaseException:
        discard(parcel, arena)
        raise
    return parcel


def discard(parcel: Parcel, arena: Arena | None) -> None:
    """Give back the blocks of a parcel that is not sent, or was received."""
    if arena is not None:
        for offset in parcel.blocks:
            arena.free(offset)


def unpack(
    listing: Any,
    frames: Sequence[bytes],
    memory: Mapping | None,
    buffers: Mapping | None = None,
    *,
    lend: bool = False,
) -> Tensors:
    """The tensors of a message, as views of its frames and of the memory; raises `WireError`.

    With `lend`, blocks of `memory` are given back by themselves, see `Mapping.lend`.
    """
    if not isinstance(listing, list):
        raise WireError("'tensors' must be a list")
    tensors: Tensors = {}
    position = 0
    for entry in listing:
        match entry:
            case [str(name), str(kind), [*shape], None]:
                if position == len(frames):
                    raise WireError(f"tensor '{name}' has no frame")
                raw: bytes | npt.NDArray[np.uint8] = frames[position]
                position += 1
            case [str(name), str(kind), [*shape], [int(offset), int(size)]]:
                if memory is None:
                    raise WireError(f"tensor '{name}' is in shared memory, but there is none")
                raw = memory.lend(offset, size) if lend else memory.view(offset, size)
            case [str(name), str(kind), [*shape], [int(offset), int(size), "buffers"]]:
                if buffers is None:
                    raise WireError(f"tensor '{name}' is in buffers that are not known here")
                raw = buffers.view(offset, size)
            case _:
                raise WireError("a tensor must have a name, a data type, a shape and a place")
        tensors[name] = _tensor(name, kind, shape, raw)
    if position != len(frames):
        raise WireError(f"{len(frames) - position} frames belong to no tensor")
    return tensors


def _pack(
    parcel: Parcel,
    name: str,
    parts: list[Tensor],
    arena: Arena | None,
    buffers: Buffers | None,
) -> None:
    first = parts[0]
    if not isinstance(first, np.ndarray):
        raise UnsendableError(f"'{name}' is a {type(first).__name__}; only tensors travel")
    kind = _NAMES.get(first.dtype)
    if kind is None and first.dtype.kind in "SU":
        kind = _STRINGS
    if kind is None:
        raise UnsendableError(f"'{name}' has data type {first.dtype}, which does not travel")
    shape: tuple[int, ...] = first.shape
    if len(parts) > 1:
        shape = (sum(len(part) for part in parts), *shape[1:])
    size = prod(shape) * first.dtype.itemsize
    if kind == _STRINGS:
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        parcel.frames.append(_pack_strings(joined))
    elif size >= SHARED_BYTES and len(parts) == 1 and buffers and (place := buffers.place(first)):
        parcel.listing.append([name, kind, shape, [*place, "buffers"]])
        return
    elif size >= SHARED_BYTES and arena and (offset := arena.allocate(size)) is not None:
        parcel.blocks.append(offset)
        slot = arena.view(offset, size).view(first.dtype).reshape(shape)
        join(parts, slot)
        parcel.listing.append([name, kind, shape, [offset, size]])
        return
    else:
        joined = np.ascontiguousarray(first) if len(parts) == 1 else np.concatenate(parts)
        parcel.frames.append(joined.reshape(-1).view(np.uint8).data)
    parcel.listing.append([name, kind, shape, None])


def _tensor(name: str, kind: str, shape: list[Any], raw: bytes | npt.NDArray[np.uint8]) -> Tensor:
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise WireError(f"tensor '{name}' has the unknown data type {kind[:40]!r}")
    if len(shape) > _MAX_RANK or not all(type(dim) is int and dim >= 0 for dim in shape):
        raise WireError(f"tensor '{name}' has no usable shape")
    if kind == _STRINGS:
        return _unpack_strings(name, bytes(raw), prod(shape)).reshape(shape)
    if len(raw) != prod(shape) * dtype.itemsize:
        raise WireError(
            f"tensor '{name}' has {len(raw)} bytes, but {kind} of shape {shape} needs "
            f"{prod(shape) * dtype.itemsize}"
        )
    try:
        if not len(raw):
            return np.empty(shape, dtype)
        if isinstance(raw, np.ndarray):
            return raw.view(dtype).reshape(shape)
        return np.frombuffer(raw, dtype).reshape(shape)
    except ValueError as error:
        raise WireError(f"tensor '{name}': {error}") from None


def _pack_strings(tensor: Tensor) -> bytes:
    pieces = []
    for item in tensor.reshape(-1).tolist():
        data = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else bytes(item)
        pieces += [_LENGTH.pack(len(data)), data]
    return b"".join(pieces)


def _unpack_strings(name: str, data: bytes, count: int) -> Tensor:
    if count * _LENGTH.size > len(data):
        raise WireError(f"tensor '{name}': {len(data)} bytes cannot hold {count} strings")
    tensor = np.empty(count, object)
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        end = start + int.from_bytes(data[position:start], "little")
        if start > len(data) or end > len(data):
            raise WireError(f"tensor '{name}': string {index} reaches past the end")
        tensor[index] = data[start:end].decode("utf-8", "surrogateescape")
        position = end
    if position != len(data):
        raise WireError(f"tensor '{name}': {len(data) - position} bytes remain after its strings")
    return tensor

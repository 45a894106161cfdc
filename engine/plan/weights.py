"""Weights in one block of memory, read by every program of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.plan.packing import Pieces
from engine.runtime.memory import Block

if TYPE_CHECKING:
    from engine.plan.tensor import Buffer

_ALIGNMENT: Final = 64


class WeightMemory:
    """A block of `size` bytes; `address` is where it begins."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._block = Block(size)
        self.address = self._block.address

    def array(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The bytes in use."""
        return self._block.array()[: self.size]


def lay_out(buffers: Sequence[Buffer]) -> tuple[dict[int, int], int]:
    """Byte offset of every buffer by its index, one for equal content, and the bytes in all."""
    offsets: dict[int, int] = {}
    places: dict[int, int] = {}
    size = 0
    for buffer in buffers:
        assert buffer.data is not None
        key = id(buffer.data)
        if key not in places:
            places[key] = size
            size += -(-max(1, buffer.data.nbytes) // _ALIGNMENT) * _ALIGNMENT
        offsets[buffer.index] = places[key]
    return offsets, size


def gather(buffers: Sequence[Buffer]) -> tuple[WeightMemory, dict[int, int]]:
    """Move the buffers' content into one block, equal content once, and let go of the originals.

    The second result gives the byte offset of a buffer by its index.
    """
    offsets, size = lay_out(buffers)
    weights = WeightMemory(size)
    memory = weights.array()
    for buffer in buffers:
        data = buffer.data
        assert data is not None
        start = offsets[buffer.index]
        memory[start : start + data.nbytes] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        buffer.data = None
    return weights, offsets


def packed_names(buffers: Sequence[Buffer]) -> tuple[str, ...]:
    """Names of the weights that were packed while these buffers were planned, each once."""
    found = (buffer.name for buffer in buffers if buffer.origin is not None and buffer.origin.fresh)
    return tuple(dict.fromkeys(found))


def pieces_of(buffers: Sequence[Buffer]) -> tuple[Pieces, int]:
    """Where `gather` puts what was packed, by key, and the bytes it needs in all."""
    offsets, size = lay_out(buffers)
    pieces: Pieces = {}
    for buffer in buffers:
        if buffer.origin is not None:
            assert buffer.data is not None
            piece = (buffer.origin_start, buffer.data.nbytes, offsets[buffer.index])
            pieces.setdefault(buffer.origin.key, []).append(piece)
    return pieces, size

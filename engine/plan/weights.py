"""Weights in one block of memory: packed once at load, read by every program of the session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.plan.tensor import Buffer
from engine.runtime.memory import Block

_ALIGNMENT = 64


class WeightMemory:
    """Copies the buffers' content side by side; equal content is kept once.

    `offsets` gives the byte offset of a buffer by its index; `size` counts the bytes in use.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.offsets: dict[int, int] = {}
        places: dict[int, int] = {}
        size = 0
        for buffer in buffers:
            assert buffer.data is not None
            key = id(buffer.data)
            if key not in places:
                places[key] = size
                size += -(-max(1, buffer.data.nbytes) // _ALIGNMENT) * _ALIGNMENT
            self.offsets[buffer.index] = places[key]
        self.size = size
        self._block = Block(size)
        self.address = self._block.address
        memory = self._block.array()
        for buffer in buffers:
            assert buffer.data is not None
            start = self.offsets[buffer.index]
            content = np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8)
            memory[start : start + content.size] = content

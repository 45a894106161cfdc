"""Memory that a gateway puts large requests together in, and its workers read without a copy.

One arena of the gateway, which every worker of the machine maps beside the arena of its own link. A
block is free when the last array over it is gone: the request holds one until it is answered, and a
flight under way holds the request. Where a link ends with flights under way, its worker may have
been stopped only, and may read on when it runs again; such blocks are kept until its process has
ended.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from cluster.channel import Batch
from cluster.channel.arena import FOLDER, Arena, Bytes
from cluster.session import Tensor

_LINE: Final = 64


class Buffers:
    """Belongs to one thread; arrays over its blocks may be dropped by any."""

    def __init__(self, size: int) -> None:
        """Room for `size` bytes; raises `OSError` where there is no shared memory at all."""
        self._arena = Arena(size, FOLDER)
        self._kept: list[tuple[int | None, list[Batch]]] = []

    def offer(self) -> dict[str, Any]:
        """What a worker needs to map it."""
        return self._arena.offer()

    def lend(self, size: int, aligned: int = 0) -> Bytes | None:
        """A block of `size` bytes to write, None where there is no room.

        Its byte number `aligned` lies on a cache line.
        """
        self._collect()
        skip = -aligned % _LINE
        block = self._arena.lend(size + skip)
        return None if block is None else block[skip:]

    def place(self, tensor: Tensor) -> tuple[int, int] | None:
        """Offset and size of a tensor that lies in one piece in a block, else None."""
        if not tensor.flags.c_contiguous:
            return None
        offset: int = tensor.__array_interface__["data"][0] - self._arena.address
        return (offset, tensor.nbytes) if 0 <= offset < self._arena.size else None

    def keep(self, process: int, batches: Sequence[Batch]) -> None:
        """Keep what a worker may still read until its process ends.

        `process` is its id, 0 if it cannot be seen from here: then it is kept for good.
        """
        held = [batch for batch in batches if self._holds(batch)]
        if not held:
            return
        ended: int | None = None
        if process:
            try:
                ended = os.pidfd_open(process)
            except ProcessLookupError:
                return
            except OSError:
                ended = None
        self._kept.append((ended, held))
        self._collect()

    def close(self) -> None:
        """Give the memory back once nobody looks at it any more."""
        for ended, _ in self._kept:
            if ended is not None:
                os.close(ended)
        self._kept.clear()
        self._arena.close()

    def _holds(self, batch: Batch) -> bool:
        return any(
            isinstance(tensor, np.ndarray) and self.place(tensor) is not None
            for part in batch.parts
            for tensor in part.values()
        )

    def _collect(self) -> None:
        kept = []
        for ended, batches in self._kept:
            # A process' descriptor becomes readable when it has ended (pidfd_open(2)).
            if ended is not None and select.select([ended], [], [], 0)[0]:
                with suppress(OSError):
                    os.close(ended)
            else:
                kept.append((ended, batches))
        self._kept = kept

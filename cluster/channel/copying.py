"""Copies of large tensors, by several threads.

One core copies 25 MB in 4.9 ms on the machine this was written on, two in 2.7 ms, since a core
alone does not fill the memory's bandwidth (numpy 2.4, Xeon at 2.5 GHz; `python -m benchmarks.fleet
--parts crossing` measures the whole way). numpy copies without the GIL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Final

import numpy as np

from cluster.session import Tensor

_ALONE: Final = 2 << 20
"""Bytes up to which a helper's waking costs more than it saves."""

_MOST: Final = 4
"""Threads that copy at once; more of them meet the limit of the memory."""

_TURNS: Final = 2
"""Pieces for each thread: more than one, so that a thread that starts late takes fewer, and few,
because between two of them a thread may have to wait for the GIL."""


@cache
def _helpers() -> tuple[ThreadPoolExecutor, int]:
    count = min(_MOST, len(os.sched_getaffinity(0))) - 1
    return ThreadPoolExecutor(max(count, 1), thread_name_prefix="packhorse-copy"), count


def join(parts: Sequence[Tensor], slot: Tensor) -> None:
    """Write tensors one after the other along axis 0 of `slot`.

    A single one is copied whatever its rank; raises `ValueError` if shapes do not fit.
    """
    if slot.nbytes <= _ALONE or not all(part.flags.c_contiguous for part in parts):
        if len(parts) == 1:
            np.copyto(slot, parts[0])
        else:
            np.concatenate(parts, out=slot)
        return
    if any(part.shape[1:] != slot.shape[1:] for part in parts):
        raise ValueError("parts of a batch must have the same shape but for axis 0")
    executor, count = _helpers()
    step = max(1, slot.size // (_TURNS * (count + 1)))
    pieces = iter(list(_pieces(parts, slot.reshape(-1), step)))
    running = [executor.submit(_copy, pieces) for _ in range(count)]
    _copy(pieces)
    wait(running)
    for each in running:
        each.result()


def _pieces(parts: Sequence[Tensor], slot: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    position = 0
    for part in parts:
        flat = part.reshape(-1)
        for start in range(0, len(flat), step):
            source = flat[start : start + step]
            yield slot[position + start : position + start + len(source)], source
        position += len(flat)


def _copy(pieces: Iterator[tuple[Tensor, Tensor]]) -> None:
    # Several threads share the iterator: a list's hands out each item once.
    for target, source in pieces:
        np.copyto(target, source)

"""Placing buffers in the arena: lifetimes are static, sizes are those of one binding.

Greedy by size, best fit: buffers are placed largest first, each into the smallest gap among the
placed buffers whose lifetimes overlap its own (Pisarchyk and Lee, Efficient Memory Management for
Deep Neural Net Inference, arXiv 2001.03288).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALIGNMENT: Final = 64
"""Bytes; the arena's buffers start on cache lines."""

_SLACK: Final = 64
"""Bytes between buffers, so that equal power-of-two sizes do not start in the same cache sets."""


def place(sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offset of every buffer and the arena's size in bytes.

    `lifetimes` gives the first and last operation that touch a buffer, both included.
    """
    offsets = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], lifetimes[i]))
    placed: list[tuple[int, int, int, int]] = []
    total = 0
    for i in order:
        need = -(-sizes[i] // ALIGNMENT) * ALIGNMENT + _SLACK
        first, last = lifetimes[i]
        busy = sorted((start, end) for start, end, a, b in placed if a <= last and first <= b)
        best, best_gap, cursor = -1, 0, 0
        for start, end in busy:
            gap = start - cursor
            if gap >= need and (best < 0 or gap < best_gap):
                best, best_gap = cursor, gap
            cursor = max(cursor, end)
        offset = best if best >= 0 else cursor
        offsets[i] = offset
        placed.append((offset, offset + need, first, last))
        total = max(total, offset + need)
    return offsets, total

"""Slices of a batch: a few rows at a time through the whole program.

A program runs operation by operation, each over the whole batch. Where the activations of a batch
outgrow the last-level cache, every operation reads from memory what the one before it wrote there.
Running the program on a few rows at a time keeps them in the cache; weights are read once for each
slice instead. Rows do not depend on their batch, so the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from engine import cpu

if TYPE_CHECKING:
    from engine.plan.binding import Bound
    from engine.runner import Ready

_SHARE: Final = 0.35
"""Part of the last-level cache that activations of a slice may take: others use it, too."""

_REUSE: Final = 2
"""Least number of times that every byte of the activations counts as read from memory."""

_SLOWER: Final = 1.1
"""Slices must not be predicted to compute for longer than the whole by this factor, which is about
what they gain: products of few rows and steps of recurrent layers are faster in large batches."""


class Slices:
    """Decides how many rows of a batch run at a time."""

    def __init__(self, symbol: str, weight_bytes: int, cache: int | None = None) -> None:
        """`symbol` is the size of axis 0 of all inputs and outputs, whose rows do not meet.

        `cache` is the size of the last-level cache in bytes; None asks the machine.
        """
        self._symbol = symbol
        self._weight_bytes = weight_bytes
        self._room = int((cpu.machine().cache_bytes(3) if cache is None else cache) * _SHARE)

    def concern(self, bound: Bound) -> bool:
        """Whether a program is so large that `of` has something to decide."""
        return bound.arena > self._room

    def of(
        self, bound: Bound, sizes: Mapping[str, int], bind: Callable[[Mapping[str, int]], Ready]
    ) -> tuple[tuple[int, int, Ready], ...]:
        """First row, row after the last and program of every slice; empty where the batch is best
        left whole."""
        batch = sizes.get(self._symbol, 0)
        if not self.concern(bound) or batch < 2:
            return ()
        rows = max(batch * self._room // bound.arena, 1)
        count = -(-batch // rows)
        if self._weight_bytes * (count - 1) > _REUSE * bound.arena:
            return ()
        ends = [batch * part // count for part in range(count + 1)]
        slices = []
        for begin, end in pairwise(ends):
            slices.append((begin, end, bind({**sizes, self._symbol: end - begin})))
        if sum(ready.bound.estimate for *_, ready in slices) > bound.estimate * _SLOWER:
            return ()
        return tuple(slices)

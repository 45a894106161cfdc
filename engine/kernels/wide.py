"""Vectors side by side: one or two, computed with as one.

Chains of instructions that wait for each other leave a core idle; two such chains keep it busy.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.codegen.builder import KernelBuilder, Val
from engine.kernels.strips import Lanes


class Wide:
    """Vectors of `lanes`, one or two of them in a value."""

    def __init__(self, k: KernelBuilder, lanes: Lanes) -> None:
        self.k = k
        self.lanes = lanes

    def join(self, parts: Sequence[Val]) -> Val:
        """One value of one or two vectors."""
        if len(parts) == 1:
            return parts[0]
        return self.k.shuffle(parts[0], parts[1], range(2 * self.lanes.count))

    def part(self, value: Val, number: int) -> Val:
        """Vector number `number` of a value."""
        count = self.lanes.count
        if value.type.count == count:
            return value
        return self.k.shuffle(value, value, range(number * count, (number + 1) * count))

    def load(self, pointers: Sequence[Val], shift: int = 0) -> Val:
        """Vectors at some pointers, `shift` bytes further on."""
        return self.join([self.k.load(p + shift, self.lanes.kind) for p in pointers])

    def store(self, value: Val, pointers: Sequence[Val]) -> None:
        """Store each vector at a pointer of its own."""
        for number, pointer in enumerate(pointers):
            self.k.store(self.part(value, number), pointer)

    def store_part(self, value: Val, number: int, target: Val, room: Val) -> None:
        """Store the lanes of vector `number` for which there is room."""
        k, count = self.k, self.lanes.count
        vector = self.part(value, number)
        with k.branch(room >= count) as (whole, partly):
            with whole:
                k.store(vector, target)
            with partly:
                k.masked_store(vector, target, k.mask(room, count))

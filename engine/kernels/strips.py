"""Strips: contiguous runs of elements, visited a few vectors at a time.

What reductions, normalisations and pooling share: vectors of one data type, loads and stores with a
mask for the tail, folding a vector to a scalar in a fixed order, and the loop over a strip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.builder import TYPES, KernelBuilder, Operand, Val, is_float

CHUNK: Final = 64
"""Elements that one accumulator takes before it is added to the total (blocked summation: Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2)."""

Combine = Callable[[Val, Val], Val]
"""Accumulator of two accumulators."""


@dataclass(frozen=True)
class Part:
    """A stretch of a strip: `vectors` vectors of `lanes` from element `start`, or one masked."""

    lanes: Lanes
    start: Val
    vectors: int
    mask: Val | None

    @property
    def byte(self) -> Val:
        """Byte offset of the first element from the strip's first."""
        return self.start * self.lanes.itemsize

    def load(self, pointer: Val, vector: int = 0, fill: Operand = None) -> Val:
        """Vector number `vector` of a strip at `pointer`; `fill` replaces lanes behind the end."""
        shift = vector * self.lanes.bytes
        return self.lanes.load(pointer + self.byte + shift, self.mask, fill)

    def store(self, value: Val, pointer: Val, vector: int = 0) -> None:
        """Store vector number `vector` of a strip at `pointer`."""
        shift = vector * self.lanes.bytes
        self.lanes.store(value, pointer + self.byte + shift, self.mask)

    def keep(self, value: Val, fill: Operand) -> Val:
        """`value` with the lanes behind the end of the strip replaced by `fill`."""
        return value if self.mask is None else self.lanes.k.select(self.mask, value, fill)


class Lanes:
    """Vectors of `dtype` on the kernel's target; ``count=1`` gives one-element vectors."""

    def __init__(self, k: KernelBuilder, dtype: str, count: int | None = None) -> None:
        self.k = k
        self.dtype = dtype
        self.itemsize = int(np.dtype(dtype).itemsize)
        self.count = count or k.target.lanes(self.itemsize)
        self.bytes = self.count * self.itemsize
        self.scalar: Any = TYPES[dtype]
        self.kind: Any = k.vector(self.scalar, self.count)
        self.unsigned = dtype.startswith("uint") or dtype == "bool"

    def fill(self, value: float) -> Val:
        """Vector of one constant."""
        return self.k.const(value, self.kind)

    def splat(self, value: Val) -> Val:
        """Vector of one scalar."""
        return self.k.splat(value, self.count)

    def load(self, pointer: Val, mask: Val | None = None, fill: Operand = None) -> Val:
        """Vector at `pointer`; lanes outside `mask` are `fill`, zero where none is given."""
        if mask is None:
            return self.k.load(pointer, self.kind)
        value = self.k.masked_load(pointer, mask, self.kind)
        return value if fill is None else self.k.select(mask, value, fill)

    def store(self, value: Val, pointer: Val, mask: Val | None = None) -> None:
        """Store the lanes that `mask` selects, all without one."""
        if mask is None:
            self.k.store(value, pointer)
        else:
            self.k.masked_store(value, pointer, mask)

    def larger(self, a: Val, b: Val) -> Val:
        """Larger of each pair; of a pair with NaN, `b`, which is one instruction everywhere."""
        if is_float(a.type):
            return self.k.select(a > b, a, b)
        return self.k.binary("umax" if self.unsigned else "smax", a, b)

    def smaller(self, a: Val, b: Val) -> Val:
        """Smaller of each pair; of a pair with NaN, `b`."""
        if is_float(a.type):
            return self.k.select(a < b, a, b)
        return self.k.binary("umin" if self.unsigned else "smin", a, b)

    @property
    def lowest(self) -> Val:
        """Vector of the smallest value of the data type."""
        if is_float(self.kind):
            return self.fill(float("-inf"))
        return self.fill(0 if self.unsigned else int(np.iinfo(self.dtype).min))

    @property
    def highest(self) -> Val:
        """Vector of the largest value of the data type."""
        if is_float(self.kind):
            return self.fill(float("inf"))
        return self.fill(1 if self.dtype == "bool" else int(np.iinfo(self.dtype).max))

    def fold(self, value: Val, combine: Combine) -> Val:
        """Scalar of all lanes, combined by halves: lane i with lane i + count/2."""
        k, lanes = self.k, self.count
        while lanes > 1:
            half = lanes // 2
            low = k.shuffle(value, value, range(half))
            high = k.shuffle(value, value, range(half, lanes))
            value, lanes = combine(low, high), half
        return Val(k, k.b.extract_element(value.v, k.const(0).v))

    def sweep(
        self, length: Val, vectors: int, body: Callable[[Part], None], first: Operand = 0
    ) -> None:
        """Visit elements [first, length): blocks of `vectors`, single vectors, a masked one.

        Bytes have no cheap masks before AVX-512, so their tail goes element by element.
        """
        k = self.k
        start = k.variable(first, length.type)
        for width in (vectors, 1) if vectors > 1 else (1,):
            block = width * self.count
            stop = length - block
            with k.while_(lambda stop=stop: start.get() <= stop):  # type: ignore[misc]
                body(Part(self, start.get(), width, None))
                start.add(block)
        if self.itemsize < 4:
            single = Lanes(k, self.dtype, 1)
            with k.loop(start.get(), length) as index:
                body(Part(single, index, 1, None))
        elif self.count > 1:
            with k.when(start.get() < length):
                mask = k.mask(length - start.get(), self.count)
                body(Part(self, start.get(), 1, mask))

    def accumulate(
        self,
        length: Val,
        vectors: int,
        initial: Val,
        enter: Callable[[Val, Part, int], Val],
        merge: Combine,
    ) -> Val:
        """One accumulator vector over elements [0, length), for a later `fold`.

        ``enter(total, part, vector)`` gives an accumulator after one more vector of elements; lanes
        behind the end of the strip are left alone. `vectors` independent accumulators share the
        work; every `CHUNK` blocks they are merged into the total and start afresh, so that long
        sums stay accurate.
        """
        k = self.k
        total = k.variable(initial)
        chunk = CHUNK * vectors * self.count
        with k.loop(0, length, chunk) as first:
            partials = [k.variable(initial) for _ in range(vectors)]

            def body(part: Part) -> None:
                for vector in range(part.vectors):
                    previous = partials[vector].get()
                    partials[vector].set(part.keep(enter(previous, part, vector), previous))

            self.sweep(k.minimum(length, first + chunk), vectors, body, first)
            sums = [partial.get() for partial in partials]
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [merge(a, b) for a, b in zip(sums[:half], sums[half:], strict=True)]
            total.set(merge(total.get(), sums[0]))
        return total.get()

"""Passes of Fourier transforms over numbers whose real and imaginary parts lie apart.

Lengths made of the factors 2, 3, 4 and 5 take one pass per factor (Stockham's autosort transform,
decimation in frequency: C. Van Loan, Computational Frameworks for the Fast Fourier Transform,
1992, section 1.7): with ``count = radix * rest`` points left and ``stride`` finished,

    y[q + stride * (radix * p + k)] = w(count)^(p k) * sum over j of x[q + stride * (p + rest j)] *
    w(radix)^(j k),   w(n) = exp(-2 pi i / n)

Rows end in `MARGIN` elements that vectors may touch, so that no pass has a tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from engine.codegen.builder import I64, PTR, TYPES, KernelBuilder, Val, Variable
from engine.codegen.values import element_bytes

RADICES: Final = (4, 2, 3, 5)
"""Factors in the order in which passes take them."""

MARGIN: Final = 96
"""More than a vector of the widest target times the largest radix."""

Complex = tuple[Val, Val]


def times(k: KernelBuilder, a: Complex, b: Complex) -> Complex:
    """Product of complex numbers."""
    return k.fma(a[0], b[0], -(a[1] * b[1])), k.fma(a[0], b[1], a[1] * b[0])


def _quarter(x: Complex) -> Complex:
    """``-i x``."""
    return x[1], -x[0]


def _plus(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def butterfly(k: KernelBuilder, x: Sequence[Complex]) -> list[Complex]:
    """Transform of 2, 3, 4 or 5 numbers."""
    if len(x) == 2:
        return [_plus(x[0], x[1]), _minus(x[0], x[1])]
    if len(x) == 4:
        even, odd = butterfly(k, x[0::2]), butterfly(k, x[1::2])
        turned = _quarter(odd[1])
        return [
            _plus(even[0], odd[0]),
            _plus(even[1], turned),
            _minus(even[0], odd[0]),
            _minus(even[1], turned),
        ]
    radix, half = len(x), len(x) // 2
    sums = [_plus(x[j], x[radix - j]) for j in range(1, half + 1)]
    differences = [_minus(x[j], x[radix - j]) for j in range(1, half + 1)]
    total = x[0]
    for item in sums:
        total = _plus(total, item)
    low, high = [], []
    for row in range(1, half + 1):
        symmetric, skew = x[0], None
        for j in range(1, half + 1):
            angle = 2 * math.pi * (row * j % radix) / radix
            cosine, sine = k.const(math.cos(angle), x[0][0].type), math.sin(angle)
            item = sums[j - 1]
            symmetric = (k.fma(item[0], cosine, symmetric[0]), k.fma(item[1], cosine, symmetric[1]))
            part = (differences[j - 1][0] * sine, differences[j - 1][1] * sine)
            skew = part if skew is None else _plus(skew, part)
        assert skew is not None
        low.append(_plus(symmetric, _quarter(skew)))
        high.append(_minus(symmetric, _quarter(skew)))
    return [total, *low, *high[::-1]]


def divides(radix: int, number: Variable) -> Val:
    """Whether a number is a multiple of `radix`, and more than one."""
    return (number.get() > 1) & (number.get() % radix).equals(0)


class Transformer:
    """Emits transforms into a kernel: `powers_of_two` rounds up, `run` calls the passes."""

    def __init__(self, k: KernelBuilder, dtype: str) -> None:
        self.k = k
        self.kind, self.itemsize = TYPES[dtype], element_bytes(dtype)
        self.lanes = k.target.lanes(self.itemsize)
        self.vector = k.vector(self.kind, self.lanes)
        names = [PTR, PTR, PTR, I64, I64]
        self.function = k.local_function(f"{k.function.name}_passes", names, PTR)
        with k.within(self.function) as arguments:
            self._passes(*arguments)

    def run(self, source: Val, other: Val, turns: Val, length: Val, plane: Val) -> Val:
        """Transform of the `length` numbers at `source`; where they are: there, or at `other`.

        Imaginary parts lie `plane` bytes behind real ones, in the table of `turns`, too.
        """
        return self.k.call(self.function, [source, other, turns, length, plane])

    def is_smooth(self, length: Val) -> Val:
        """Whether the passes take a length."""
        rest = self.k.variable(length)
        for radix in RADICES:
            with self.k.while_(partial(divides, radix, rest)):
                rest.set(rest.get() // radix)
        return rest.get() <= 1

    def power_of_two(self, least: Val) -> Val:
        """Smallest power of two from `least` on."""
        found = self.k.variable(1, I64)
        with self.k.while_(lambda: found.get() < least):
            found.set(found.get() << 1)
        return found.get()

    @contextmanager
    def vectors(self, count: Val) -> Iterator[Val]:
        """Byte offsets of vectors over `count` elements and perhaps some of the margin."""
        with self.k.loop(0, count, self.lanes) as position:
            yield position * self.itemsize

    def get(self, at: Val, plane: Val, kind: Any = None) -> Complex:
        """Complex number, or a vector of them, at an address."""
        kind = kind or self.vector
        return self.k.load(at, kind), self.k.load(at + plane, kind)

    def put(self, value: Complex, at: Val, plane: Val) -> None:
        """Counterpart of `get`."""
        self.k.store(value[0], at)
        self.k.store(value[1], at + plane)

    def _passes(self, source: Val, other: Val, turns: Val, length: Val, plane: Val) -> None:
        k = self.k
        x, y, table = (k.variable(value) for value in (source, other, turns))
        count, stride = k.variable(length), k.variable(1, I64)
        for radix in RADICES:
            with k.while_(partial(divides, radix, count)):
                rest = count.get() // radix
                with k.branch(stride.get().equals(1)) as (first, later):
                    with first:
                        self._first(radix, x.get(), y.get(), table.get(), rest, plane)
                    with later:
                        self._later(radix, x.get(), y.get(), table.get(), rest, plane, stride)
                table.add((count.get() - rest) * self.itemsize)
                count.set(rest)
                stride.set(stride.get() * radix)
                done = x.get()
                x.set(y.get())
                y.set(done)
        k.ret(x.get())

    def _first(self, radix: int, x: Val, y: Val, table: Val, rest: Val, plane: Val) -> None:
        """The pass of stride 1: vectors along p, whose results are interleaved.

        The last vector begins early enough to end with the last p; where there are fewer than a
        vector of them, what is too much falls into the margin.
        """
        k, size = self.k, self.itemsize
        with k.loop(0, rest, self.lanes) as position:
            p = k.maximum(k.minimum(position, rest - self.lanes), 0)
            at = x + p * size
            results = butterfly(k, [self.get(at + rest * (j * size), plane) for j in range(radix)])
            for row in range(1, radix):
                turn = self.get(table + (rest * (row - 1) + p) * size, plane)
                results[row] = times(k, results[row], turn)
            to = y + p * (radix * size)
            for part, shift in ((0, k.const(0)), (1, plane)):
                for index, vector in enumerate(self._interleaved([r[part] for r in results])):
                    k.store(vector, to + shift + index * self.lanes * size)

    def _interleaved(self, vectors: Sequence[Val]) -> list[Val]:
        """Elements of vectors in turn: the first of each, then the second of each."""
        radix, lanes = len(vectors), self.lanes
        found = []
        for start in range(0, radix * lanes, lanes):
            places = [divmod(start + lane, radix) for lane in range(lanes)]
            made = self.k.shuffle(vectors[0], vectors[0], [place for place, _ in places])
            for row in range(1, radix):
                mask = [
                    lanes + place if vector == row else lane
                    for lane, (place, vector) in enumerate(places)
                ]
                made = self.k.shuffle(made, vectors[row], mask)
            found.append(made)
        return found

    def _later(
        self, radix: int, x: Val, y: Val, table: Val, rest: Val, plane: Val, stride: Variable
    ) -> None:
        """A pass of vectors along q.

        With a stride of less than a vector, its surplus is overwritten by what is written next.
        """
        k, size, wide = self.k, self.itemsize, stride.get()
        with k.loop(0, rest) as p:
            turns: list[Complex] = []
            for row in range(1, radix):
                re, im = self.get(table + (rest * (row - 1) + p) * size, plane, self.kind)
                turns.append((k.splat(re, self.lanes), k.splat(im, self.lanes)))
            with k.loop(0, wide, self.lanes) as position:
                q = k.maximum(k.minimum(position, wide - self.lanes), 0)
                at = x + (q + wide * p) * size
                gap = wide * rest * size
                results = butterfly(k, [self.get(at + gap * j, plane) for j in range(radix)])
                to = y + (q + wide * p * radix) * size
                for row, result in enumerate(results):
                    if row:
                        result = times(k, result, turns[row - 1])
                    self.put(result, to + wide * (row * size), plane)

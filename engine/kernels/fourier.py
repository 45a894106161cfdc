"""Fourier transforms of lines of any length, which a run may decide.

A line is copied into work memory, real and imaginary parts apart, transformed there, and copied
out. Lengths made of the factors 2, 3, 4 and 5 take one pass per factor (Stockham's autosort
transform, decimation in frequency: C. Van Loan, Computational Frameworks for the Fast Fourier
Transform, 1992, section 1.7): with ``count = radix * rest`` points left and ``stride`` finished,

    y[q + stride * (radix * p + k)] = w(count)^(p k) * sum over j of x[q + stride * (p + rest j)] *
    w(radix)^(j k),   w(n) = exp(-2 pi i / n)

Any other length n is a convolution with a chirp by transforms of a power of two (L. Bluestein,
1970). An inverse transform is a forward one with real and imaginary parts exchanged on both sides.

Tables (`engine.kernels.fourier_tables`) are rows of `plane` elements: the powers ``w(count)^(p k)``
of all passes, real and imaginary, one pass behind the other; then the chirp ``exp(-i pi k^2 / n)``
and the transform of its conjugate, divided by its length. Rows of work memory and tables end in
`MARGIN` elements that vectors may touch, so that no pass has a tail.

What a line becomes depends on nothing but itself: it has the same bytes in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from engine.codegen.abi import Context, Layout
from engine.codegen.builder import I64, PTR, TYPES, KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import segments

DTYPES: Final = ("float32", "float64")
RADICES: Final = (4, 2, 3, 5)
"""Factors in the order in which passes take them."""

MARGIN: Final = 96
"""More than a vector of the widest target times the largest radix."""

Complex = tuple[Val, Val]


def plane_of_unknown(length: Any) -> Any:
    """Elements of a row of tables and work memory for whatever `length` (a dim) turns out to be."""
    return length * 4 + MARGIN


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
            with self.k.while_(lambda r=radix: (rest.get() > 1) & (rest.get() % r).equals(0)):  # type: ignore[misc]
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
            with k.while_(lambda r=radix: (count.get() > 1) & (count.get() % r).equals(0)):  # type: ignore[misc]
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


def _layout(options: Options) -> Layout:
    tensors = "x y tables work" + (" window" if options["window"] else "")
    return Layout.of(
        tensors,
        "outer inner x_outer x_inner x_step y_outer y_inner y_step taken length bins plane",
    )


class _Lines:
    """The kernel of `FOURIER`."""

    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.parts, self.inverse = options["parts"], options["inverse"]
        self.halved, self.windowed = options["halved"], options["window"]
        self.results = 1 if self.inverse and self.halved else 2
        self.t = Transformer(k, options["dtype"])
        self.x, self.y, self.tables, work = (k.tensor(n) for n in ("x", "y", "tables", "work"))
        self.window = k.tensor("window") if self.windowed else None
        self.x_step, self.y_step, self.taken, self.length, self.bins, plane = k.ints(
            "x_step y_step taken length bins plane"
        )
        self.plane = plane * self.t.itemsize
        thread = k.load(k.offset(k.context, Context.THREAD), I64)
        self.work = work + thread * (self.plane * 4)
        self.other = self.work + self.plane * 2

    def build(self) -> None:
        """Emit the kernel."""
        k, t = self.k, self.t
        outer, inner, x_outer, x_inner, y_outer, y_inner = k.ints(
            "outer inner x_outer x_inner y_outer y_inner"
        )
        smooth = t.is_smooth(self.length)
        wide = t.power_of_two(self.length * 2 - 1)
        strides = [[x_outer, x_inner], [y_outer, y_inner]]
        with segments(k, [outer, inner], strides) as segment, k.loop(0, segment.count) as i:
            self._gather(self.x + (segment.offsets[0] + i * x_inner))
            found = k.variable(self.work)
            with k.branch(smooth) as (then, otherwise):
                with then:
                    found.set(t.run(self.work, self.other, self.tables, self.length, self.plane))
                with otherwise:
                    found.set(self._by_chirp(wide))
            self._scatter(found.get(), self.y + (segment.offsets[1] + i * y_inner))
        k.ret()

    def _pair(self, re: Val, im: Val) -> Complex:
        return (im, re) if self.inverse else (re, im)

    def _gather(self, x: Val) -> None:
        """The line into work memory: continued by zeros, or by what symmetry says."""
        k, t, size = self.k, self.t, self.t.itemsize
        done = k.variable(k.const(0))
        together = self.x_step.equals(self.parts * size)
        with k.when(together), k.while_(lambda: done.get() + t.lanes <= self.taken):
            at = x + done.get() * (self.parts * size)
            re = k.load(at, t.vector)
            im = k.const(0.0, t.vector)
            if self.parts == 2:
                second = k.load(at + t.lanes * size, t.vector)
                even = range(0, 2 * t.lanes, 2)
                im = k.shuffle(re, second, [lane + 1 for lane in even])
                re = k.shuffle(re, second, list(even))
            self._keep(re, im, done.get(), t.vector)
            done.add(t.lanes)
        with k.loop(done.get(), self.taken) as j:
            at = x + j * self.x_step
            re = k.load(at, t.kind)
            im = k.load(at + size, t.kind) if self.parts == 2 else k.const(0.0, t.kind)
            self._keep(re, im, j, t.kind)
        zero = k.const(0.0, t.vector)
        with t.vectors(self.length - self.taken) as offset:
            t.put((zero, zero), self.work + self.taken * size + offset, self.plane)
        if self.inverse and self.halved:
            self._mirror()

    def _keep(self, re: Val, im: Val, position: Val, kind: Any) -> None:
        """Put numbers of the line where they belong, times the window."""
        if self.window is not None:
            weight = self.k.load(self.window + position * self.t.itemsize, kind)
            re, im = re * weight, im * weight
        self.t.put(self._pair(re, im), self.work + position * self.t.itemsize, self.plane)

    def _mirror(self) -> None:
        """The second half of the spectrum of a real line: the first, conjugate and backwards."""
        k, t, size = self.k, self.t, self.t.itemsize
        zero = k.const(0.0, t.kind)

        def real(at: Val) -> None:
            re, _ = self._pair(*t.get(at, self.plane, t.kind))
            t.put(self._pair(re, zero), at, self.plane)

        real(self.work)
        half = self.length // 2
        with k.when((half * 2).equals(self.length)):
            real(self.work + half * size)
        with k.loop(half + 1, self.length) as j:
            re, im = self._pair(*t.get(self.work + (self.length - j) * size, self.plane, t.kind))
            t.put(self._pair(re, -im), self.work + j * size, self.plane)

    def _by_chirp(self, wide: Val) -> Val:
        """Transform of a length that has other factors, in place."""
        k, t, size = self.k, self.t, self.t.itemsize
        chirp, filtered = self.tables + self.plane * 2, self.tables + self.plane * 4
        with t.vectors(self.length) as offset:
            at = self.work + offset
            t.put(
                times(k, t.get(at, self.plane), t.get(chirp + offset, self.plane)), at, self.plane
            )
        zero = k.const(0.0, t.vector)
        with t.vectors(wide - self.length) as offset:
            t.put((zero, zero), self.work + self.length * size + offset, self.plane)
        first = t.run(self.work, self.other, self.tables, wide, self.plane)
        with t.vectors(wide) as offset:
            at = first + offset
            product = times(k, t.get(at, self.plane), t.get(filtered + offset, self.plane))
            t.put(product[::-1], at, self.plane)
        free = k.select(first.equals(self.work), self.other, self.work)
        second = t.run(first, free, self.tables, wide, self.plane)
        with t.vectors(self.length) as offset:
            at = second + offset
            product = times(k, t.get(at, self.plane)[::-1], t.get(chirp + offset, self.plane))
            t.put(product, at, self.plane)
        return second

    def _scatter(self, found: Val, y: Val) -> None:
        """What is asked for of the result, to where it belongs."""
        k, t, size = self.k, self.t, self.t.itemsize
        done = k.variable(k.const(0))
        share = 1.0 / k.convert(self.length, t.kind)

        def result(position: Val, kind: Any) -> Complex:
            re, im = self._pair(*t.get(found + position * size, self.plane, kind))
            if not self.inverse:
                return re, im
            scale = k.splat(share, t.lanes) if kind is t.vector else share
            return re * scale, im * scale

        together = self.y_step.equals(self.results * size)
        with k.when(together), k.while_(lambda: done.get() + t.lanes <= self.bins):
            re, im = result(done.get(), t.vector)
            to = y + done.get() * (self.results * size)
            if self.results == 1:
                k.store(re, to)
            else:
                both = [
                    lane
                    for pair in zip(range(t.lanes), range(t.lanes, 2 * t.lanes), strict=True)
                    for lane in pair
                ]
                k.store(k.shuffle(re, im, both[: t.lanes]), to)
                k.store(k.shuffle(re, im, both[t.lanes :]), to + t.lanes * size)
            done.add(t.lanes)
        with k.loop(done.get(), self.bins) as j:
            re, im = result(j, t.kind)
            k.store(re, y + j * self.y_step)
            if self.results == 2:
                k.store(im, y + j * self.y_step + size)


def _build(symbol: str, target: Target, options: Options) -> str:
    """Lines [outer, inner] of `taken` numbers become `bins` numbers of a transform of `length`.

    A work item is a line. `parts` is 1 for real and 2 for complex numbers; `halved` lines are the
    spectra of real numbers where the transform is `inverse`, and its first half elsewhere (where
    `bins` says so). `window` multiplies each line. Strides are bytes; `tables` has 6 rows of
    `plane` elements and `work` 4 per thread.
    """
    k = KernelBuilder(symbol, target, _layout(options))
    _Lines(k, options).build()
    return str(k.module)


FOURIER: Final = register(Family("fourier", "Fourier transforms of lines", _layout, _build))

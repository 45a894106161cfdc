"""Fourier transforms of lines of any length, which a run may decide.

A line is copied into work memory, real and imaginary parts apart, transformed there, and copied
out. Lengths made of small factors take the passes of `engine.kernels.fourier_passes`. Any other
length n is a convolution with a chirp by transforms of a power of two (L. Bluestein, 1970). An
inverse transform is a forward one with real and imaginary parts exchanged on both sides.

Tables (`engine.kernels.fourier_tables`) are rows of `plane` elements: the powers ``w(count)^(p k)``
of all passes, real and imaginary, one pass behind the other; then the chirp ``exp(-i pi k^2 / n)``
and the transform of its conjugate, divided by its length. Rows of work memory and tables end in
`MARGIN` elements that vectors may touch, so that no pass has a tail.

What a line becomes depends on nothing but itself: it has the same bytes in any batch.
"""

from __future__ import annotations

from typing import Any, Final

from engine.codegen.abi import Context, Layout
from engine.codegen.builder import I64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.fourier_passes import MARGIN, Complex, Transformer, times
from engine.kernels.odometer import segments

DTYPES: Final = ("float32", "float64")


def plane_of_unknown(length: Any) -> Any:
    """Elements of a row of tables and work memory for whatever `length` (a dim) turns out to be."""
    return length * 4 + MARGIN


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

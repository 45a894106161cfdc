"""Tables of Fourier transforms, made by a kernel where only the run knows the length.

`tables` computes the same in numpy, at load, for lengths that are known then. Angles are reduced in
whole numbers and computed in float64. See `engine.kernels.fourier` for what the rows hold.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import numpy as np

from engine.codegen.abi import Layout
from engine.codegen.builder import F64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.math import floor
from engine.codegen.target import Target
from engine.codegen.wide_math import sine_cosine
from engine.graph.ir import AnyArray
from engine.kernels.fourier_passes import MARGIN, RADICES, Complex, Transformer, divides

ROWS: Final = 6
"""Powers, chirp, and the chirp's transform, real and imaginary parts of each."""


def factors(length: int) -> list[int]:
    """Radices of the passes over `length` numbers, in order; what they leave over comes last."""
    found = []
    for radix in RADICES:
        while length > 1 and length % radix == 0:
            found.append(radix)
            length //= radix
    return [*found, length] if length > 1 else found


def tables(length: int, dtype: str) -> AnyArray:
    """[6, plane] for transforms of a known length; `plane` follows from the length."""
    smooth = all(radix in RADICES for radix in factors(length))
    wide = length if smooth else 1 << (2 * length - 2).bit_length()
    found = np.zeros((ROWS, wide + MARGIN), dtype)

    def fill(row: int, numbers: AnyArray) -> None:
        found[row, : len(numbers)], found[row + 1, : len(numbers)] = numbers.real, numbers.imag

    powers, count = [], wide
    for radix in factors(wide):
        rest = count // radix
        turns = np.outer(np.arange(1, radix), np.arange(rest)) / count
        powers.append(np.exp(-2j * np.pi * turns).reshape(-1))
        count = rest
    fill(0, np.concatenate([*powers, np.zeros(0)]))
    if not smooth:
        steps = np.arange(length)
        chirp = np.exp(-1j * np.pi * (steps * steps % (2 * length)) / length)
        fill(2, chirp)
        padded = np.zeros(wide, complex)
        padded[:length] = chirp.conj()
        padded[wide - length + 1 :] = chirp[:0:-1].conj()
        fill(4, np.fft.fft(padded) / wide)
    return found


def _layout(options: Options) -> Layout:
    return Layout.of("tables work", "length plane")


class _Tables:
    """The kernel of `TABLES`."""

    def __init__(self, k: KernelBuilder, dtype: str) -> None:
        self.k, self.t = k, Transformer(k, dtype)
        self.tables, self.work = k.tensor("tables"), k.tensor("work")
        self.length, plane = k.ints("length plane")
        self.plane = plane * self.t.itemsize
        self.lanes = k.target.lanes(8)
        self.wide = k.vector(F64, self.lanes)

    def build(self) -> None:
        """Emit the kernel."""
        k, t = self.k, self.t
        smooth = t.is_smooth(self.length)
        wide = t.power_of_two(self.length * 2 - 1)
        self._powers(k.select(smooth, self.length, wide))
        with k.when(smooth ^ 1):
            self._chirp()
            self._filter(wide)
        k.ret()

    def _numbers(self, first: Val) -> Val:
        """float64 vector of `first` and the whole numbers after it."""
        k = self.k
        steps = k.iota(self.wide)
        return k.splat(k.convert(first, F64), self.lanes) + steps

    def _turn(self, fraction: Val) -> Complex:
        """``exp(-2 pi i fraction)``, rounded."""
        k = self.k
        sine, cosine = sine_cosine(k, fraction * (2 * math.pi))
        kind = k.vector(self.t.kind, self.lanes)
        return k.convert(cosine, kind), k.convert(-sine, kind)

    def _powers(self, length: Val) -> None:
        k, size = self.k, self.t.itemsize
        count, at = k.variable(length), k.variable(self.tables)
        for radix in RADICES:
            with k.while_(partial(divides, radix, count)):
                rest = count.get() // radix
                share = 1.0 / k.convert(count.get(), F64)
                with k.loop(1, radix) as row:
                    step = k.splat(k.convert(row, F64) * share, self.lanes)
                    with k.loop(0, rest, self.lanes) as p:
                        self.t.put(
                            self._turn(self._numbers(p) * step), at.get() + p * size, self.plane
                        )
                    at.add(rest * size)
                count.set(rest)

    def _chirp(self) -> None:
        k, size = self.k, self.t.itemsize
        chirp = self.tables + self.plane * 2
        period = k.splat(k.convert(self.length * 2, F64), self.lanes)
        with k.loop(0, self.length, self.lanes) as position:
            number = self._numbers(position)
            square = number * number
            # Exact for lengths below 2**26; a quotient that is one off turns once more.
            rest = square - floor(k, square / period) * period
            self.t.put(self._turn(rest / period), chirp + position * size, self.plane)

    def _filter(self, wide: Val) -> None:
        """Transform of the conjugate chirp, once forwards and once backwards, around zeros."""
        k, t, size = self.k, self.t, self.t.itemsize
        chirp, to = self.tables + self.plane * 2, self.tables + self.plane * 4
        zero = k.const(0.0, t.vector)
        with t.vectors(wide) as offset:
            t.put((zero, zero), self.work + offset, self.plane)
        with k.loop(0, self.length) as j:
            re, im = t.get(chirp + j * size, self.plane, t.kind)
            t.put((re, -im), self.work + j * size, self.plane)
            with k.when(j > 0):
                t.put((re, -im), self.work + (wide - j) * size, self.plane)
        found = t.run(self.work, self.work + self.plane * 2, self.tables, wide, self.plane)
        share = k.splat(1.0 / k.convert(wide, t.kind), t.lanes)
        with t.vectors(wide) as offset:
            re, im = t.get(found + offset, self.plane)
            t.put((re * share, im * share), to + offset, self.plane)


def _build(symbol: str, target: Target, options: Options) -> str:
    """Tables for transforms of `length`; one work item, `work` has 4 rows of `plane` elements."""
    k = KernelBuilder(symbol, target, _layout(options))
    _Tables(k, options["dtype"]).build()
    return str(k.module)


TABLES: Final = register(Family("fourier_tables", "tables of Fourier transforms", _layout, _build))

"""The rows of a work item of the dot kernel: where they lie, which tiles cover them, copies.

Everything here lives in the thread's scratch and depends on the rows and K steps of an item, not on
its panels: it is made once and read for every panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.codegen.builder import F32, I1, I16, I64, PTR, KernelBuilder, Val, Variable
from engine.kernels.pairs import rounded
from engine.kernels.tile import choose

_LEVELS: Final = "k3 k2 k1 k1_last a_k3 a_k2"
"""K levels of a tile, as words in scratch: those of A in place, and one dense level of a copy."""


class Entry:
    """Byte offsets in the list of an item's tiles: what is independent of the panel."""

    A, STRIDE, LEVELS, ROW, HEIGHT, SIZE = 0, 8, 16, 24, 32, 40


class Head:
    """Byte offsets in scratch: K levels of A in place, of copies, and whether a sum begins or ends.

    What follows: the row table, the list of tiles, partial sums, copied rows.
    """

    PLACED, COPIED, STARTS, ENDS, SIZE = 0, 64, 128, 136, 192


def levels(k: KernelBuilder, place: Val) -> list[Val]:
    """K levels kept at `place`: those of `_LEVELS`."""
    return [k.load(k.offset(place, 8 * i), I64) for i in range(len(_LEVELS.split()))]


class RowBlock:
    """Scratch of an item: row table, list of tiles, partial sums, copied rows, in this order.

    `tabled` names the operands whose row offsets the table holds, A first; `panel_bytes` are those
    of a panel's columns. With `pairs`, a form of `engine.kernels.pairs`, every row is copied as
    pairs of bf16 numbers: those of a step of k3 side by side, the last filled up with a zero.
    """

    def __init__(
        self,
        k: KernelBuilder,
        tabled: Sequence[str],
        ladder: Sequence[int],
        panel_bytes: int,
        pairs: str = "",
    ) -> None:
        self.k = k
        self.pairs = pairs
        self.tabled = tabled
        self.row_bytes = 8 * len(tabled)
        self.ladder = ladder
        self.panel_bytes = panel_bytes
        self.lanes = k.target.lanes()
        self.vector = k.vector(F32, self.lanes)
        self.copy = self._copier()

    def divide(self, split: Val) -> None:
        """Lay out scratch; `split` says that K takes several passes."""
        k = self.k
        m_block, n_block, k3_block = k.ints("m_block n_block k3_block")
        rows = m_block + self.ladder[0]
        steps, k2 = k.minimum(k3_block, k.int("k3")), k.int("k2")
        depth = self.words(steps, k2, k.maximum(*k.ints("k1 k1_last")))
        self.head = k.scratch()
        self.table = k.offset(self.head, Head.SIZE)
        self.tiles = k.offset(self.table, rows * self.row_bytes)
        sums = rows * (self.row_bytes + Entry.SIZE) + (Head.SIZE + 63)
        self.partial = k.offset(self.head, sums & -64)
        sums_size = k.select(split, rows * n_block * (self.panel_bytes), k.const(0))
        self.copies = k.offset(self.partial, sums_size)
        # An odd number of cache lines spreads the rows over all sets of the first-level cache.
        self.pitch = ((depth * 4 + 63) // 64 | 1) * 64

    def words(self, steps: Val, a: Val, b: Val) -> Val:
        """Words of 32 bits that `steps` steps of k3 take, of `a` times `b` elements each."""
        return steps * ((a * b + 1) // 2) if self.pairs else steps * a * b

    def fill(self, row0: Val, count: Val) -> None:
        """Byte offsets of the item's rows; the last row is repeated to fill the tallest tile."""
        k = self.k
        m1, m2 = k.ints("m1 m2")
        strides = [[k.int(f"{name}_m{axis}") for axis in range(3)] for name in self.tabled]
        start = row0 % m2
        line = k.variable(row0 // m2)
        at, end = k.variable(self.table), k.offset(self.table, count * self.row_bytes)
        left = k.variable(count)
        offsets = [k.variable(start * s2) for *_, s2 in strides]
        length = k.variable(m2 - start)
        with k.while_(lambda: left.get() > 0):
            i0, i1 = line.get() // m1, line.get() % m1
            for offset, (s0, s1, _) in zip(offsets, strides, strict=True):
                offset.set(offset.get() + i0 * s0 + i1 * s1)
            take = k.minimum(length.get(), left.get())
            with k.loop(0, take):
                for place, (offset, (*_, s2)) in enumerate(zip(offsets, strides, strict=True)):
                    k.store(offset.get(), k.offset(at.get(), 8 * place))
                    offset.add(s2)
                at.add(self.row_bytes)
            for offset in offsets:
                offset.set(0)
            left.set(left.get() - take)
            length.set(m2)
            line.add(1)
        with k.loop(0, self.ladder[0]) as row:
            for place in range(len(self.tabled)):
                final = k.load(k.offset(end, 8 * place - self.row_bytes), I64)
                k.store(final, k.offset(end, row * self.row_bytes + 8 * place))

    def cover(self, a: Val, row0: Val, count: Val, first: Val, last: Val, tiles: Variable) -> None:
        """List the tiles of a row block for K steps [first, last), copying rows where needed."""
        k = self.k
        k1, k1_last, k2, k3, a_k3, a_k2 = k.ints("k1 k1_last k2 k3 a_k3 a_k2")
        run, copied, a_m2 = k.ints("run copied a_m2")
        steps, final = last - first, k.select(last.equals(k3), k1_last, k1)
        if self.pairs:
            depth = self.words(steps - 1, k1, k2) + self.words(k.const(1), final, k2)
        else:
            depth = ((steps - 1) * k1 + final) * k2
        one, none = k.const(1), k.const(0)
        both = {
            Head.PLACED: (steps, k2, k1, final, a_k3, a_k2),
            Head.COPIED: (one, one, depth, depth, none, none),
        }
        for place, values in both.items():
            for i, value in enumerate(values):
                k.store(value, k.offset(self.head, place + 8 * i))
        placed, dense = (k.offset(self.head, place) for place in both)
        a = k.offset(a, first * a_k3)
        at, entry = k.variable(k.const(0)), k.variable(self.tiles)
        tiles.set(0)
        with k.while_(lambda: at.get() < count):
            row = at.get()
            left = count - row
            index = choose(k, self.ladder, left)
            height = k.const(self.ladder[-1])
            for i, taller in enumerate(self.ladder[:-1]):
                height = k.select(index.equals(i), k.const(taller), height)
            evenly = (run - (row0 + row) % run >= height) & (left >= height)
            line = k.offset(self.table, row * self.row_bytes)
            alone = left.equals(1)
            placed_here = (evenly & copied.equals(0)) | alone
            if self.pairs:
                placed_here = k.const(0, I1)
            with k.branch(placed_here) as (then, otherwise):
                with then:
                    k.store(k.offset(a, k.load(line, I64)), k.offset(entry.get(), Entry.A))
                    stride = k.select(alone, k.const(0), a_m2)
                    k.store(stride, k.offset(entry.get(), Entry.STRIDE))
                    k.store(placed, k.offset(entry.get(), Entry.LEVELS))
                with otherwise:
                    target = k.offset(self.copies, row * self.pitch)
                    k.call(self.copy, [placed, a, line, target, self.pitch, height])
                    k.store(target, k.offset(entry.get(), Entry.A))
                    k.store(self.pitch, k.offset(entry.get(), Entry.STRIDE))
                    k.store(dense, k.offset(entry.get(), Entry.LEVELS))
            k.store(row, k.offset(entry.get(), Entry.ROW))
            k.store(index, k.offset(entry.get(), Entry.HEIGHT))
            entry.add(Entry.SIZE)
            tiles.add(1)
            at.add(height)

    # Arguments: K levels of A in place, a, table, target, pitch, rows.
    def _copier(self) -> Any:
        k = self.k
        function = k.local_function("copy", [PTR, PTR, PTR, PTR, I64, I64])
        with k.within(function) as (place, a, table, target, pitch, count):
            k3, k2, k1, k1_last, a_k3, a_k2 = levels(k, place)
            with k.loop(0, count) as row:
                source = k.offset(a, k.load(k.offset(table, row * self.row_bytes), I64))
                to = k.variable(k.offset(target, row * pitch))
                with k.loop(0, k3) as i3:
                    length = k.select(i3.equals(k3 - 1), k1_last, k1)
                    with k.loop(0, k2) as i2:
                        self._copy(k.offset(source, i3 * a_k3 + i2 * a_k2), to.get(), length)
                        to.add(length * (2 if self.pairs else 4))
                    if self.pairs:
                        with k.when(((length * k2) & 1).differs(0)):
                            k.store(k.const(0, I16), to.get())
                            to.add(2)
            k.ret(0)
        return function

    def _copy(self, source: Val, target: Val, length: Val) -> None:
        k = self.k
        whole = length & -self.lanes
        with k.loop(0, whole, self.lanes) as step:
            value = k.load(k.offset(source, step * 4), self.vector)
            if self.pairs:
                k.store(rounded(k, value, self.pairs), k.offset(target, step * 2))
            else:
                k.store(value, k.offset(target, step * 4))
        with k.when(whole < length):
            mask = k.mask(length - whole, self.lanes)
            value = k.masked_load(k.offset(source, whole * 4), mask, self.vector)
            if self.pairs:
                value = rounded(k, value, self.pairs)
            k.masked_store(value, k.offset(target, whole * (2 if self.pairs else 4)), mask)

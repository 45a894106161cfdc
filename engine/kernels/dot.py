"""The dot kernel: ``C tile = epilogue(sum over k3, k2, k1 of A · B)``.

One kernel serves matrix products and convolutions of every size. The rows of a tile are arbitrary
windows into A (pixels of a convolution's input, rows of a matrix), found through a table of byte
offsets that is filled per work item; K has three levels with strides of their own. Where the rows
of a tile lie evenly spaced they are read in place. Elsewhere (a tile that spans image rows, the
last rows of all) and where ``copied`` says so, an item first copies its rows, K flattened, into
scratch: once per item, used by every panel. B is packed in panels (`engine.plan.packing`) whose K
runs in the same order. The epilogue, an expression of `engine.codegen.expression`, is computed in
registers before the only store.

Each output element is one accumulator summed in the order of K, whatever the tile, the split over
items or the blocking (a K block continues from fp32 partial sums kept in scratch): the schedule
does not change bytes.

The last tile of an item may repeat its last row, so C must not alias an input of the epilogue.

Work items are (batch, row block, panel block). Parameters, strides and offsets in bytes:

- ``m, m1, m2``: rows in all, and the lengths of the inner row axes, row = (i0·m1 + i1)·m2 + i2;
- ``run``: rows of A that lie evenly spaced, ``a_m2`` apart, from each multiple of it;
- ``copied``: 1 where all rows are copied, 0 where those that can are read in place;
- ``a_m0, a_m1, a_m2, c_m0, ...``: strides of A, C and of epilogue input i (``e<i>_``) per row axis;
- ``n``: columns; ``k1, k1_last, k2, k3``: lengths of the K levels, ``k1_last`` for the last k3;
- ``a_k2, a_k3``: strides of A (k1 is dense); ``panel``: bytes of a packed panel;
- ``batch1``: length of the inner of two batch axes; ``a_b0, a_b1, b_b0, ...``: batch strides;
- ``m_block, n_block, k3_block``: rows, panels and k3 steps per item: the schedule;
- ``rows_first``: 1 where neighbouring items share a panel block, 0 where they share a row block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I64, PTR, KernelBuilder, Val, Variable
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target
from engine.kernels.tile import Sums, choose, multiply, zeros

SCHEDULE: Final = "m_block n_block k3_block m_items n_items rows_first copied"
_SIZES: Final = "m m1 m2 run n k1 k1_last k2 k3 a_k2 a_k3 panel batch1"

_LEVELS: Final = "k3 k2 k1 k1_last a_k3 a_k2"
"""K levels of a tile, as words in scratch: those of A in place, and one dense level of a copy."""


_NEAR: Final = 1024
_FAR: Final = 4096
_FEW_TILES: Final = 2
"""How far ahead of its use, in bytes, a panel is fetched into the first-level cache: a little where
it waits in the second, more where few tiles share it and it comes from further away. Measured on a
Xeon of the Cascade Lake generation, rows x columns x depth: 1024x768x768 gains 4 % at any distance
from 512 to 4096, 16x3072x768 gains 20 % at 4096 (`python -m benchmarks.dot`)."""


class _Entry:
    """Byte offsets in the list of an item's tiles: what is independent of the panel."""

    A, STRIDE, LEVELS, ROW, HEIGHT, SIZE = 0, 8, 16, 24, 32, 40


class Head:
    """Byte offsets in scratch: K levels of A in place, of copies, and whether a sum begins or ends.

    What follows: the row table, the list of tiles, partial sums, copied rows.
    """

    PLACED, COPIED, STARTS, ENDS, SIZE = 0, 64, 128, 136, 192


def _operands(options: Options) -> list[str]:
    """Names of what has rows or columns: A, C and the epilogue's inputs."""
    return ["a", "c", *(f"e{i}" for i in range(len(options["inputs"])))]


def _tabled(options: Options) -> list[str]:
    """Operands with an entry in the row table, in its order."""
    return ["a", "c", *(f"e{i}" for i, kind in enumerate(options["inputs"]) if kind == "tile")]


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    names = _operands(options)
    ints = [_SIZES, SCHEDULE]
    for name in names:
        ints.append(f"{name}_b0 {name}_b1")
        if name in _tabled(options):
            ints.append(f"{name}_m0 {name}_m1 {name}_m2")
    ints.append("b_b0 b_b1")
    return Layout.of(tensors=" ".join(["b", *names]), ints=" ".join(ints))


def spec(vectors: int, inputs: Sequence[str] = (), epilogue: Expr | None = None) -> KernelSpec:
    """Dot kernel for panels of `vectors` vectors.

    `epilogue` computes the output from input 0, the accumulator, and inputs 1, 2, ..., whose access
    `inputs` names: ``column`` (one value per column of C), ``tile`` (shaped like C) or ``scalar``.
    """
    return KernelSpec.of(
        "dot",
        vectors=vectors,
        inputs=list(inputs),
        epilogue=None if epilogue is None else epilogue.to_json(),
    )


def bytes_per_row(options: Options) -> int:
    """Bytes of scratch that an item takes per row, beside partial sums and copied rows."""
    return 8 * len(_tabled(options)) + _Entry.SIZE


class _Dot:
    """Generator of one dot kernel."""

    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.options = options
        self.vectors: int = options["vectors"]
        self.lanes = k.target.lanes()
        self.width = self.vectors * self.lanes
        self.vector = k.vector(F32, self.lanes)
        self.inputs: list[str] = options["inputs"]
        self.tabled = _tabled(options)
        self.row_bytes = 8 * len(self.tabled)
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.ladder = k.target.tile_ladder(self.vectors)
        self.tiles = [self._tile(height) for height in self.ladder]
        self.copy = self._copier()

    # Arguments: head, levels, a, stride, b, table, c, partial, n, ahead, distance, e0, e1, ...
    def _tile(self, height: int) -> Any:
        k = self.k
        kinds = [PTR, PTR, PTR, I64, PTR, PTR, PTR, PTR, I64, PTR, I64, *(PTR for _ in self.inputs)]
        function = k.local_function(f"tile_{height}", kinds)
        with k.within(function) as arguments:
            head, levels, a, stride, b, table, c, partial, n, ahead, distance, *extra = arguments
            sums = zeros(k, height, self.vectors)
            places = [
                (total, (row * self.vectors + v) * self.lanes * 4)
                for row, line in enumerate(sums)
                for v, total in enumerate(line)
            ]
            with k.when(k.load(k.offset(head, Head.STARTS), I64).equals(0)):
                for total, place in places:
                    total.set(k.load(k.offset(partial, place), self.vector))
            self._prefetch(table, c, extra, height)
            self._accumulate(levels, a, stride, b, sums, ahead, distance)
            with k.branch(k.load(k.offset(head, Head.ENDS), I64).differs(0)) as (then, otherwise):
                with then:
                    self._finish(table, c, n, extra, sums)
                with otherwise:
                    for total, place in places:
                        k.store(total.get(), k.offset(partial, place))
            k.ret(0)
        return function

    def _levels(self, levels: Val) -> list[Val]:
        count = len(_LEVELS.split())
        return [self.k.load(self.k.offset(levels, 8 * i), I64) for i in range(count)]

    def _accumulate(
        self, levels: Val, a: Val, stride: Val, b: Val, sums: Sums, ahead: Val, distance: Val
    ) -> None:
        k = self.k
        k3, k2, k1, k1_last, a_k3, a_k2 = self._levels(levels)
        panel, fetched = k.variable(b), k.variable(ahead)
        with k.loop(0, k3) as i3:
            length = k.select(i3.equals(k3 - 1), k1_last, k1)
            with k.loop(0, k2) as i2:
                place = k.offset(a, i3 * a_k3 + i2 * a_k2)
                multiply(k, place, stride, panel, length, sums, fetched, distance)

    def _prefetch(self, table: Val, c: Val, extra: list[Val], height: int) -> None:
        """Fetch what the end of the tile touches while the sums are computed."""
        k = self.k
        for place, name in enumerate(self.tabled):
            base = c if name == "c" else extra[int(name[1:])] if name != "a" else None
            if base is None:
                continue
            for row in range(height):
                offset = k.load(k.offset(table, row * self.row_bytes + 8 * place), I64)
                for line in range(0, self.width * 4, 64):
                    k.prefetch(k.offset(base, offset + line), 2)

    def _finish(self, table: Val, c: Val, n: Val, extra: list[Val], sums: Sums) -> None:
        """Epilogue and store of a tile; columns from `n` on are not valid."""
        k = self.k
        if k.target.masks:
            masks = [k.mask(n - v * self.lanes, self.lanes) for v in range(self.vectors)]
            self._store(table, c, masks, extra, sums)
            return
        with k.branch(n >= self.width) as (whole, part):
            with whole:
                self._store(table, c, [None] * self.vectors, extra, sums)
            with part:
                masks = [k.mask(n - v * self.lanes, self.lanes) for v in range(self.vectors)]
                self._store(table, c, masks, extra, sums)

    def _store(
        self, table: Val, c: Val, masks: Sequence[Val | None], extra: list[Val], sums: Sums
    ) -> None:
        k = self.k
        shared: dict[tuple[int, int], Val] = {}
        for i, kind in enumerate(self.inputs):
            for v in range(self.vectors):
                if kind == "column":
                    shared[i, v] = self._load(extra[i], v, masks[v])
                elif kind == "scalar":
                    shared[i, v] = k.splat(k.load(extra[i], F32), self.lanes)
        for row, line in enumerate(sums):
            offsets = {
                name: k.load(k.offset(table, row * self.row_bytes + 8 * place), I64)
                for place, name in enumerate(self.tabled)
                if place > 0
            }
            target = k.offset(c, offsets["c"])
            for v, total in enumerate(line):
                value = total.get()
                if self.epilogue is not None:
                    inputs = [value]
                    for i, kind in enumerate(self.inputs):
                        if kind == "tile":
                            source = k.offset(extra[i], offsets[f"e{i}"])
                            inputs.append(self._load(source, v, masks[v]))
                        else:
                            inputs.append(shared[i, v])
                    value = emit(k, self.epilogue, inputs)
                at = k.offset(target, v * self.lanes * 4)
                mask = masks[v]
                if mask is None:
                    k.store(value, at)
                else:
                    k.masked_store(value, at, mask)

    def _load(self, base: Val, v: int, mask: Val | None) -> Val:
        at = self.k.offset(base, v * self.lanes * 4)
        if mask is None:
            return self.k.load(at, self.vector)
        return self.k.masked_load(at, mask, self.vector)

    # Arguments: K levels of A in place, a, table, target, pitch, rows.
    def _copier(self) -> Any:
        k = self.k
        function = k.local_function("copy", [PTR, PTR, PTR, PTR, I64, I64])
        with k.within(function) as (levels, a, table, target, pitch, count):
            k3, k2, k1, k1_last, a_k3, a_k2 = self._levels(levels)
            with k.loop(0, count) as row:
                source = k.offset(a, k.load(k.offset(table, row * self.row_bytes), I64))
                to = k.variable(k.offset(target, row * pitch))
                with k.loop(0, k3) as i3:
                    length = k.select(i3.equals(k3 - 1), k1_last, k1)
                    with k.loop(0, k2) as i2:
                        self._copy(k.offset(source, i3 * a_k3 + i2 * a_k2), to.get(), length)
                        to.add(length * 4)
            k.ret(0)
        return function

    def _copy(self, source: Val, target: Val, length: Val) -> None:
        k = self.k
        whole = length & -self.lanes
        with k.loop(0, whole, self.lanes) as step:
            k.store(k.load(k.offset(source, step * 4), self.vector), k.offset(target, step * 4))
        with k.when(whole < length):
            mask = k.mask(length - whole, self.lanes)
            value = k.masked_load(k.offset(source, whole * 4), mask, self.vector)
            k.masked_store(value, k.offset(target, whole * 4), mask)

    def kernel(self) -> None:
        """The kernel itself: walks items, lists the tiles of a row block, takes them by panels."""
        k = self.k
        m, n, k3 = k.ints("m n k3")
        m_block, n_block, k3_block = k.ints("m_block n_block k3_block")
        m_items, n_items, rows_first = k.ints("m_items n_items rows_first")
        turned = rows_first.differs(0)
        neighbours = k.select(turned, m_items, n_items)
        others = k.select(turned, n_items, m_items)
        pointers = {name: k.tensor(name) for name in ["b", *_operands(self.options)]}
        strides = {name: (k.int(f"{name}_b0"), k.int(f"{name}_b1")) for name in pointers}
        panels = (n + (self.width - 1)) // self.width
        split = k3 > k3_block
        self._divide_scratch(split)
        filled, listed = k.variable(k.const(-1)), k.variable(k.const(-1))
        tiles = k.variable(k.const(0))
        with k.loop(k.begin, k.end) as item:
            near, rest = item % neighbours, item // neighbours
            far, batch = rest % others, rest // others
            panel_item, row_item = k.select(turned, far, near), k.select(turned, near, far)
            outer, inner = batch // k.int("batch1"), batch % k.int("batch1")
            base = {
                name: k.offset(pointer, outer * strides[name][0] + inner * strides[name][1])
                for name, pointer in pointers.items()
            }
            row0 = row_item * m_block
            count = k.minimum(m_block, m - row0)
            with k.when(filled.get().differs(row_item)):
                self._fill(row0, count)
                filled.set(row_item)
            place = batch * m_items + row_item
            panel0 = panel_item * n_block
            panel1 = k.minimum(panel0 + n_block, panels)
            with k.loop(0, k3, k3_block) as first:
                last = k.minimum(first + k3_block, k3)
                with k.when(listed.get().differs(place) | split):
                    self._list(base["a"], row0, count, first, last, tiles)
                    listed.set(place)
                k.store(self._flag(first.equals(0)), k.offset(self.head, Head.STARTS))
                k.store(self._flag(last.equals(k3)), k.offset(self.head, Head.ENDS))
                with k.loop(panel0, panel1) as panel:
                    self._column(base, panel, panel0, tiles.get(), first)
        k.ret(0)

    def _flag(self, condition: Val) -> Val:
        return self.k.select(condition, self.k.const(1), self.k.const(0))

    def _divide_scratch(self, split: Val) -> None:
        k = self.k
        m_block, n_block, k3_block = k.ints("m_block n_block k3_block")
        rows = m_block + self.ladder[0]
        depth = k.minimum(k3_block, k.int("k3")) * k.int("k2") * k.maximum(*k.ints("k1 k1_last"))
        self.head = k.scratch()
        self.table = k.offset(self.head, Head.SIZE)
        self.list = k.offset(self.table, rows * self.row_bytes)
        sums = rows * (self.row_bytes + _Entry.SIZE) + (Head.SIZE + 63)
        self.partial = k.offset(self.head, sums & -64)
        sums_size = k.select(split, rows * n_block * (self.width * 4), k.const(0))
        self.copies = k.offset(self.partial, sums_size)
        # An odd number of cache lines spreads the rows over all sets of the first-level cache.
        self.pitch = ((depth * 4 + 63) // 64 | 1) * 64

    def _list(self, a: Val, row0: Val, count: Val, first: Val, last: Val, tiles: Variable) -> None:
        """List the tiles of a row block for K steps [first, last), copying rows where needed."""
        k = self.k
        k1, k1_last, k2, k3, a_k3, a_k2 = k.ints("k1 k1_last k2 k3 a_k3 a_k2")
        run, copied, a_m2 = k.ints("run copied a_m2")
        steps, final = last - first, k.select(last.equals(k3), k1_last, k1)
        depth = ((steps - 1) * k1 + final) * k2
        one, none = k.const(1), k.const(0)
        levels = {
            Head.PLACED: (steps, k2, k1, final, a_k3, a_k2),
            Head.COPIED: (one, one, depth, depth, none, none),
        }
        for place, values in levels.items():
            for i, value in enumerate(values):
                k.store(value, k.offset(self.head, place + 8 * i))
        placed, dense = (k.offset(self.head, place) for place in levels)
        a = k.offset(a, first * a_k3)
        at, entry = k.variable(k.const(0)), k.variable(self.list)
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
            with k.branch((evenly & copied.equals(0)) | alone) as (then, otherwise):
                with then:
                    k.store(k.offset(a, k.load(line, I64)), k.offset(entry.get(), _Entry.A))
                    stride = k.select(alone, k.const(0), a_m2)
                    k.store(stride, k.offset(entry.get(), _Entry.STRIDE))
                    k.store(placed, k.offset(entry.get(), _Entry.LEVELS))
                with otherwise:
                    target = k.offset(self.copies, row * self.pitch)
                    k.call(self.copy, [placed, a, line, target, self.pitch, height])
                    k.store(target, k.offset(entry.get(), _Entry.A))
                    k.store(self.pitch, k.offset(entry.get(), _Entry.STRIDE))
                    k.store(dense, k.offset(entry.get(), _Entry.LEVELS))
            k.store(row, k.offset(entry.get(), _Entry.ROW))
            k.store(index, k.offset(entry.get(), _Entry.HEIGHT))
            entry.add(_Entry.SIZE)
            tiles.add(1)
            at.add(height)

    def _column(
        self, base: dict[str, Val], panel: Val, panel0: Val, tiles: Val, first: Val
    ) -> None:
        """All tiles of an item against one panel."""
        k = self.k
        column = panel * self.width
        byte = column * 4
        k1, k2, panel_bytes = k.ints("k1 k2 panel")
        b = k.offset(base["b"], panel * panel_bytes + first * k1 * k2 * (self.width * 4))
        c = k.offset(base["c"], byte)
        extra = [
            base[f"e{i}"] if kind == "scalar" else k.offset(base[f"e{i}"], byte)
            for i, kind in enumerate(self.inputs)
        ]
        rows = k.int("m_block") + self.ladder[0]
        sums = k.offset(self.partial, (panel - panel0) * rows * (self.width * 4))
        left = k.int("n") - column
        fetched = k.variable(k.offset(b, panel_bytes))
        distance = k.select(tiles > _FEW_TILES, k.const(_NEAR), k.const(_FAR))
        with k.loop(0, tiles) as tile:
            entry = k.offset(self.list, tile * _Entry.SIZE)
            a, levels = (k.load(k.offset(entry, at), PTR) for at in (_Entry.A, _Entry.LEVELS))
            stride, row, index = (
                k.load(k.offset(entry, at), I64)
                for at in (_Entry.STRIDE, _Entry.ROW, _Entry.HEIGHT)
            )
            arguments = [
                self.head,
                levels,
                a,
                stride,
                b,
                k.offset(self.table, row * self.row_bytes),
                c,
                k.offset(sums, row * (self.width * 4)),
                left,
                fetched.get(),
                distance,
                *extra,
            ]
            self._dispatch(index, 0, arguments)
            fetched.add(panel_bytes // 8)

    def _dispatch(self, index: Val, first: int, arguments: list[Val]) -> None:
        k = self.k
        if first == len(self.tiles) - 1:
            k.call(self.tiles[first], arguments)
            return
        with k.branch(index.equals(first)) as (then, otherwise):
            with then:
                k.call(self.tiles[first], arguments)
            with otherwise:
                self._dispatch(index, first + 1, arguments)

    def _fill(self, row0: Val, count: Val) -> None:
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


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Dot(k, options).kernel()
    return str(k.module)


DOT = register(Family("dot", "matrix product and convolution on packed weights", layout, _build))

__all__ = ["DOT", "Head", "bytes_per_row", "layout", "spec"]

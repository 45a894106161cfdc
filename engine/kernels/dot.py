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

A kernel of pairs (`engine.kernels.pairs`) multiplies bf16 numbers: B is packed as pairs, items copy
all of their rows as pairs, and sums, epilogue, A and C are float32 as ever.

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
from engine.codegen.builder import F32, I64, PTR, KernelBuilder, Val
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target
from engine.kernels.pairs import INSTRUCTION, enabled
from engine.kernels.rows import Entry, Head, RowBlock, levels
from engine.kernels.tile import UNROLL, Sums, Written, multiply, zeros

SCHEDULE: Final = "m_block n_block k3_block m_items n_items rows_first copied"
_SIZES: Final = "m m1 m2 run n k1 k1_last k2 k3 a_k2 a_k3 panel batch1"


_NEAR: Final = 1024
_FAR: Final = 4096
_FEW_TILES: Final = 2
"""How far ahead of its use, in bytes, a panel is fetched into the first-level cache: a little where
it waits in the second, more where few tiles share it and it comes from further away. Measured on a
Xeon of the Cascade Lake generation, rows x columns x depth: 1024x768x768 gains 4 % at any distance
from 512 to 4096, 16x3072x768 gains 20 % at 4096 (`python -m benchmarks.dot`)."""


_PLACE_OF_C: Final = 1
"""Of C in an entry of the row table, behind A."""


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


def spec(
    vectors: int, inputs: Sequence[str] = (), epilogue: Expr | None = None, pairs: str = ""
) -> KernelSpec:
    """Dot kernel for panels of `vectors` vectors, of float32 or in a form of `pairs`.

    `epilogue` computes the output from input 0, the accumulator, and inputs 1, 2, ..., whose access
    `inputs` names: ``column`` (one value per column of C), ``tile`` (shaped like C) or ``scalar``.
    """
    return KernelSpec.of(
        "dot",
        vectors=vectors,
        inputs=list(inputs),
        epilogue=None if epilogue is None else epilogue.to_json(),
        **({"pairs": pairs} if pairs else {}),
    )


def bytes_per_row(options: Options) -> int:
    """Bytes of scratch that an item takes per row, beside partial sums and copied rows."""
    return 8 * len(_tabled(options)) + Entry.SIZE


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
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.ladder = k.target.tile_ladder(self.vectors)
        self.pairs: str = options.get("pairs", "")
        self.rows = RowBlock(k, self.tabled, self.ladder, self.width * 4, self.pairs)
        self.tiles = [self._tile(height) for height in self.ladder]

    # Arguments: head, levels, a, stride, b, table, c, partial, n, ahead, distance, e0, e1, ...
    def _tile(self, height: int) -> Any:
        k = self.k
        kinds = [PTR, PTR, PTR, I64, PTR, PTR, PTR, PTR, I64, PTR, I64, *(PTR for _ in self.inputs)]
        function = k.local_function(f"tile_{height}", kinds)
        with k.within(function) as arguments:
            head, steps, a, stride, b, table, c, partial, n, ahead, distance, *extra = arguments
            sums = zeros(k, height, self.vectors)
            places = [
                (total, (row * self.vectors + v) * self.lanes * 4)
                for row, line in enumerate(sums)
                for v, total in enumerate(line)
            ]
            with k.when(k.load(k.offset(head, Head.STARTS), I64).equals(0)):
                for total, place in places:
                    total.set(k.load(k.offset(partial, place), self.vector))
            self._prefetch(table, self._tiled(extra), height)
            written = self._written(table, c, height)
            if k.target.vector_register:
                k3, k2, k1, *_ = levels(k, steps)
                with k.when(k3 * k2 * (k1 // UNROLL) < height):
                    self._prefetch(table, [(_PLACE_OF_C, c)], height)
            else:
                self._prefetch(table, [(_PLACE_OF_C, c)], height)
            self._accumulate(steps, a, stride, b, sums, ahead, distance, written)
            with k.branch(k.load(k.offset(head, Head.ENDS), I64).differs(0)) as (then, otherwise):
                with then:
                    self._finish(table, c, n, extra, sums)
                with otherwise:
                    for total, place in places:
                        k.store(total.get(), k.offset(partial, place))
            k.ret(0)
        return function

    def _accumulate(
        self,
        steps: Val,
        a: Val,
        stride: Val,
        b: Val,
        sums: Sums,
        ahead: Val,
        distance: Val,
        written: Written,
    ) -> None:
        k = self.k
        k3, k2, k1, k1_last, a_k3, a_k2 = levels(k, steps)
        panel, fetched = k.variable(b), k.variable(ahead)
        with k.loop(0, k3) as i3:
            length = k.select(i3.equals(k3 - 1), k1_last, k1)
            with k.loop(0, k2) as i2:
                start = k.offset(a, i3 * a_k3 + i2 * a_k2)
                tile = start, stride, panel, length, sums, fetched, distance
                multiply(k, *tile, 1, written, self.pairs)

    def _written(self, table: Val, c: Val, height: int) -> Written:
        """Rows of C that the tile writes, taken to be as far apart as the first two of them."""
        k = self.k
        places = [
            k.load(k.offset(table, row * self.rows.row_bytes + 8 * _PLACE_OF_C), I64)
            for row in range(min(height, 2))
        ]
        stride = places[-1] - places[0]
        first = k.offset(c, places[0])
        last = k.offset(first, stride * (height - 1))
        return Written(k.variable(first), stride, last, self.width * 4)

    def _tiled(self, extra: Sequence[Val]) -> list[tuple[int, Val]]:
        """Place in the row table, and column, of each input that the epilogue reads by rows."""
        return [
            (place, extra[int(name[1:])])
            for place, name in enumerate(self.tabled)
            if place > _PLACE_OF_C
        ]

    def _prefetch(self, table: Val, operands: Sequence[tuple[int, Val]], height: int) -> None:
        """Fetch rows of operands, by their places in the row table, into the second-level cache."""
        k = self.k
        for place, base in operands:
            for row in range(height):
                offset = k.load(k.offset(table, row * self.rows.row_bytes + 8 * place), I64)
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
                name: k.load(k.offset(table, row * self.rows.row_bytes + 8 * place), I64)
                for place, name in enumerate(self.tabled)
                if place >= _PLACE_OF_C
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
        self.rows.divide(split)
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
                self.rows.fill(row0, count)
                filled.set(row_item)
            place = batch * m_items + row_item
            panel0 = panel_item * n_block
            panel1 = k.minimum(panel0 + n_block, panels)
            with k.loop(0, k3, k3_block) as first:
                last = k.minimum(first + k3_block, k3)
                with k.when(listed.get().differs(place) | split):
                    self.rows.cover(base["a"], row0, count, first, last, tiles)
                    listed.set(place)
                for condition, word in (
                    (first.equals(0), Head.STARTS),
                    (last.equals(k3), Head.ENDS),
                ):
                    flag = k.select(condition, k.const(1), k.const(0))
                    k.store(flag, k.offset(self.rows.head, word))
                with k.loop(panel0, panel1) as panel:
                    self._column(base, panel, panel0, tiles.get(), first)
        k.ret(0)

    def _column(
        self, base: dict[str, Val], panel: Val, panel0: Val, tiles: Val, first: Val
    ) -> None:
        """All tiles of an item against one panel."""
        k = self.k
        column = panel * self.width
        byte = column * 4
        k1, k2, panel_bytes = k.ints("k1 k2 panel")
        b = k.offset(
            base["b"], panel * panel_bytes + self.rows.words(first, k1, k2) * (self.width * 4)
        )
        c = k.offset(base["c"], byte)
        extra = [
            base[f"e{i}"] if kind == "scalar" else k.offset(base[f"e{i}"], byte)
            for i, kind in enumerate(self.inputs)
        ]
        rows = k.int("m_block") + self.ladder[0]
        sums = k.offset(self.rows.partial, (panel - panel0) * rows * (self.width * 4))
        left = k.int("n") - column
        fetched = k.variable(k.offset(b, panel_bytes))
        distance = k.select(tiles > _FEW_TILES, k.const(_NEAR), k.const(_FAR))
        with k.loop(0, tiles) as tile:
            entry = k.offset(self.rows.tiles, tile * Entry.SIZE)
            a, steps = (k.load(k.offset(entry, at), PTR) for at in (Entry.A, Entry.LEVELS))
            stride, row, index = (
                k.load(k.offset(entry, at), I64) for at in (Entry.STRIDE, Entry.ROW, Entry.HEIGHT)
            )
            arguments = [
                self.rows.head,
                steps,
                a,
                stride,
                b,
                k.offset(self.rows.table, row * self.rows.row_bytes),
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


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    dot = _Dot(k, options)
    dot.kernel()
    return enabled(str(k.module)) if dot.pairs == INSTRUCTION else str(k.module)


DOT = register(Family("dot", "matrix product and convolution on packed weights", layout, _build))

__all__ = ["DOT", "bytes_per_row", "layout", "spec"]

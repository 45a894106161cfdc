"""The dot kernel: ``C tile = epilogue(sum over k3, k2, k1 of A · B)``.

One kernel serves matrix products and convolutions of every size. A is read in place: the rows of a
tile are arbitrary windows into A (pixels of a convolution's input, rows of a matrix), found through
a table of byte offsets that is filled per work item. K has three levels with strides of their own,
so that KxK convolution needs no im2col; B is packed in panels (`engine.plan.packing`) whose K runs
in the same order. The epilogue, an expression of `engine.codegen.expression`, is computed in
registers before the only store.

Each output element is one accumulator summed in the order of K, whatever the tile, the split over
items or the blocking (a K block continues from fp32 partial sums kept in scratch): the schedule
does not change bytes.

Work items are (batch, row block, panel block). Parameters, strides and offsets in bytes:

- ``m, m1, m2``: rows in all, and the lengths of the inner row axes, row = (i0·m1 + i1)·m2 + i2;
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

_UNROLL: Final = 2
"""Steps of k1 per iteration of the inner loop; more do not run faster and compile slower."""

SCHEDULE: Final = "m_block n_block k3_block m_items n_items rows_first"
_SIZES: Final = "m m1 m2 n k1 k1_last k2 k3 a_k2 a_k3 panel batch1"


def _operands(options: Options) -> list[str]:
    """Names of what has rows or columns: A, C and the epilogue's inputs."""
    return ["a", "c", *(f"e{i}" for i in range(len(options["inputs"])))]


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    names = _operands(options)
    ints = [_SIZES, SCHEDULE]
    for name in names:
        ints.append(f"{name}_b0 {name}_b1")
        if name in ("a", "c") or options["inputs"][int(name[1:])] == "tile":
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


def _row_bytes(options: Options) -> int:
    tiles = sum(1 for kind in options["inputs"] if kind == "tile")
    return 8 * (2 + tiles)


def multiply_step(
    k: KernelBuilder, lines: list[Val], at: Val, panel: Val, lanes: int, sums: list[list[Variable]]
) -> None:
    """One step of K: ``sums[row][v] += lines[row][at] * panel[v]``; `at` counts bytes."""
    vector = sums[0][0].type
    columns = [k.load(k.offset(panel, v * lanes * 4), vector) for v in range(len(sums[0]))]
    for line, row in zip(lines, sums, strict=True):
        value = k.splat(k.load(k.offset(line, at), F32), lanes)
        for total, column in zip(row, columns, strict=True):
            total.set(k.fma(value, column, total.get()))


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
        self.tabled = ["a", "c", *(f"e{i}" for i, x in enumerate(self.inputs) if x == "tile")]
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        rows = k.target.tile_rows(self.vectors)
        self.ladder = sorted({rows, max(1, rows // 2), 1}, reverse=True)
        self.tiles = {height: self._tile(height) for height in self.ladder}

    # Arguments of a tile function, all byte pointers already moved to the batch and the column:
    # words, table, a, b, c, partial, valid rows, valid columns, k3 begin, k3 end, e0, e1, ...
    def _tile(self, height: int) -> Any:
        k = self.k
        kinds = [PTR] * 6 + [I64] * 4 + [PTR] * len(self.inputs)
        function = k.local_function(f"tile_{height}", kinds)
        with k.within(function) as arguments:
            words, table, a, b, c, partial, m, n, first, last = arguments[:10]
            extra = arguments[10:]
            saved, k.words = k.words, words
            self._tile_body(height, table, a, b, c, partial, m, n, first, last, extra)
            k.words = saved
        return function

    def _tile_body(
        self,
        height: int,
        table: Val,
        a: Val,
        b: Val,
        c: Val,
        partial: Val,
        m: Val,
        n: Val,
        first: Val,
        last: Val,
        extra: list[Val],
    ) -> None:
        k = self.k
        stride = _row_bytes(self.options)
        zero = k.const(0, self.vector)
        sums = [[k.variable(zero) for _ in range(self.vectors)] for _ in range(height)]
        starts = first > 0
        with k.when(starts):
            for row in range(height):
                for v in range(self.vectors):
                    at = k.offset(partial, (row * self.vectors + v) * self.lanes * 4)
                    sums[row][v].set(k.load(at, self.vector))
        rows = [k.offset(a, k.load(k.offset(table, row * stride), I64)) for row in range(height)]
        self._accumulate(rows, b, first, last, sums)
        ends = last.equals(k.int("k3"))
        with k.branch(ends) as (then, otherwise):
            with then:
                full = n >= self.width
                with k.branch(full) as (whole, part):
                    with whole:
                        self._store(height, table, c, m, None, extra, sums)
                    with part:
                        self._store(height, table, c, m, n, extra, sums)
            with otherwise:
                for row in range(height):
                    for v in range(self.vectors):
                        at = k.offset(partial, (row * self.vectors + v) * self.lanes * 4)
                        k.store(sums[row][v].get(), at)
        k.ret(0)

    def _accumulate(
        self, rows: list[Val], b: Val, first: Val, last: Val, sums: list[list[Variable]]
    ) -> None:
        k = self.k
        k1, k1_last, k2, k3 = k.ints("k1 k1_last k2 k3")
        a_k2, a_k3 = k.ints("a_k2 a_k3")
        panel = k.variable(b)
        with k.loop(first, last) as i3:
            length = k.select(i3.equals(k3 - 1), k1_last, k1)
            with k.loop(0, k2) as i2:
                shift = i3 * a_k3 + i2 * a_k2
                lines = [k.offset(row, shift) for row in rows]
                step = k.variable(k.const(0))
                bulk = length - length % _UNROLL
                with k.while_(lambda step=step, bulk=bulk: step.get() < bulk):  # type: ignore[misc]
                    for u in range(_UNROLL):
                        source = k.offset(panel.get(), u * self.width * 4)
                        at = step.get() * 4 + u * 4
                        multiply_step(k, lines, at, source, self.lanes, sums)
                    panel.add(_UNROLL * self.width * 4)
                    step.add(_UNROLL)
                with k.while_(lambda step=step, length=length: step.get() < length):  # type: ignore[misc]
                    multiply_step(k, lines, step.get() * 4, panel.get(), self.lanes, sums)
                    panel.add(self.width * 4)
                    step.add(1)

    def _store(
        self,
        height: int,
        table: Val,
        c: Val,
        m: Val,
        n: Val | None,
        extra: list[Val],
        sums: list[list[Variable]],
    ) -> None:
        """Epilogue and store of the valid rows; `n` columns are valid, all where it is None."""
        k = self.k
        masks = [
            None if n is None else k.mask(n - v * self.lanes, self.lanes)
            for v in range(self.vectors)
        ]
        shared: dict[tuple[int, int], Val] = {}
        for i, kind in enumerate(self.inputs):
            for v in range(self.vectors):
                if kind == "column":
                    shared[i, v] = self._load(extra[i], v, masks[v])
                elif kind == "scalar":
                    shared[i, v] = k.splat(k.load(extra[i], F32), self.lanes)
        stride = _row_bytes(self.options)
        for row in range(height):
            with k.when(k.const(row) < m):
                offsets = {
                    name: k.load(k.offset(table, row * stride + 8 * place), I64)
                    for place, name in enumerate(self.tabled)
                    if place > 0
                }
                target = k.offset(c, offsets["c"])
                for v in range(self.vectors):
                    value = sums[row][v].get()
                    if self.epilogue is not None:
                        inputs = [value]
                        for i, kind in enumerate(self.inputs):
                            if kind == "tile":
                                line = k.offset(extra[i], offsets[f"e{i}"])
                                inputs.append(self._load(line, v, masks[v]))
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
        """The kernel itself: walks items, fills the row table, calls tiles."""
        k = self.k
        m, n, k3, panel_bytes, batch1 = k.ints("m n k3 panel batch1")
        m_block, n_block, k3_block, m_items, n_items, rows_first = k.ints(SCHEDULE)
        turned = rows_first.differs(0)
        neighbours = k.select(turned, m_items, n_items)
        others = k.select(turned, n_items, m_items)
        pointers = {name: k.tensor(name) for name in ["b", *_operands(self.options)]}
        strides = {name: (k.int(f"{name}_b0"), k.int(f"{name}_b1")) for name in pointers}
        panels = (n + (self.width - 1)) // self.width
        table = k.scratch()
        rows = m_block + self.ladder[0]
        partial = k.offset(table, (rows * _row_bytes(self.options) + 63) & -64)
        filled = k.variable(k.const(-1))
        with k.loop(k.begin, k.end) as item:
            near, rest = item % neighbours, item // neighbours
            far, batch = rest % others, rest // others
            panel_item = k.select(turned, far, near)
            row_item = k.select(turned, near, far)
            outer, inner = batch // batch1, batch % batch1
            base = {
                name: k.offset(pointer, outer * strides[name][0] + inner * strides[name][1])
                for name, pointer in pointers.items()
            }
            row0 = row_item * m_block
            count = k.minimum(m_block, m - row0)
            with k.when(filled.get().differs(row_item)):
                self._fill(table, row0, count)
                filled.set(row_item)
            panel0 = panel_item * n_block
            panel1 = k.minimum(panel0 + n_block, panels)
            with k.loop(0, k3, k3_block) as first:
                last = k.minimum(first + k3_block, k3)
                with k.loop(panel0, panel1) as panel:
                    self._column(
                        base, table, partial, panel, panel0, count, n, panel_bytes, first, last
                    )
        k.ret(0)

    def _column(
        self,
        base: dict[str, Val],
        table: Val,
        partial: Val,
        panel: Val,
        panel0: Val,
        count: Val,
        n: Val,
        panel_bytes: Val,
        first: Val,
        last: Val,
    ) -> None:
        """All row tiles of an item against one panel."""
        k = self.k
        column = panel * self.width
        byte = column * 4
        k1, k2 = k.ints("k1 k2")
        b = k.offset(base["b"], panel * panel_bytes + first * k1 * k2 * (self.width * 4))
        c = k.offset(base["c"], byte)
        extra = [
            base[f"e{i}"] if kind == "scalar" else k.offset(base[f"e{i}"], byte)
            for i, kind in enumerate(self.inputs)
        ]
        rows = k.int("m_block") + self.ladder[0]
        sums = k.offset(partial, (panel - panel0) * rows * (self.width * 4))
        row = k.variable(k.const(0))
        stride = _row_bytes(self.options)

        def tile(height: int) -> None:
            at = row.get()
            arguments = [
                k.words,
                k.offset(table, at * stride),
                base["a"],
                b,
                c,
                k.offset(sums, at * (self.width * 4)),
                count - at,
                n - column,
                first,
                last,
                *extra,
            ]
            k.call(self.tiles[height], arguments)
            row.add(height)

        with k.while_(lambda: row.get() < count):
            self._choose(self.ladder, count, row, tile)

    def _choose(self, ladder: list[int], count: Val, row: Variable, tile: Any) -> None:
        """The tallest tile, or for what is left over the lowest one that covers it."""
        k = self.k
        if len(ladder) == 1:
            tile(ladder[0])
            return
        with k.branch(count - row.get() > ladder[1]) as (then, otherwise):
            with then:
                tile(ladder[0])
            with otherwise:
                self._choose(ladder[1:], count, row, tile)

    def _fill(self, table: Val, row0: Val, count: Val) -> None:
        """Byte offsets of the item's rows; the last row is repeated to fill the tallest tile."""
        k = self.k
        m1, m2 = k.ints("m1 m2")
        strides = [[k.int(f"{name}_m{axis}") for axis in range(3)] for name in self.tabled]
        i2 = k.variable(row0 % m2)
        i1 = k.variable(row0 // m2 % m1)
        i0 = k.variable(row0 // m2 // m1)
        stride = _row_bytes(self.options)
        with k.loop(0, count + self.ladder[0]) as row:
            line = k.offset(table, row * stride)
            for place, (s0, s1, s2) in enumerate(strides):
                offset = i0.get() * s0 + i1.get() * s1 + i2.get() * s2
                k.store(offset, k.offset(line, 8 * place))
            with k.when(row < count - 1):
                i2.add(1)
                with k.when(i2.get().equals(m2)):
                    i2.set(0)
                    i1.add(1)
                    with k.when(i1.get().equals(m1)):
                        i1.set(0)
                        i0.add(1)


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Dot(k, options).kernel()
    return str(k.module)


DOT = register(Family("dot", "matrix product and convolution on packed weights", layout, _build))

__all__ = ["DOT", "layout", "multiply_step", "spec"]

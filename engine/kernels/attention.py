"""Fused attention: ``y = softmax(f(q kᵀ)) v``, the kernel family ``attention``.

A work item is a block of query rows against one head of keys and values. Keys are taken in blocks
of `key_block`: their transpose and the values are packed into scratch, the scores of all rows are
products on register tiles, `f` and the softmax follow row by row while the scores are in the second
level cache, and a second product adds to the result. Between blocks the softmax is kept relative to
the largest score so far (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018;
Dao et al., FlashAttention, 2022, section 3.1), so no score ever leaves the cache.

`f` is an expression of the score (input 0) and of further tensors, each contiguous along the keys
(access ``c``) or with one value per row (``s``): scale, mask and bias in whatever form a model has
them. With the option `causal`, query i sees the keys up to i + `past`; blocks that no row sees are
skipped. Rows whose scores are all -inf give NaN, with the option `guarded` zeros. With the option
`rounded` the exponentials that multiply the values are bfloat16 numbers; their sum is not rounded.

Rows are the queries of the `group` query heads that share a head of keys, so grouped heads pack
their keys once. A row's bytes depend on `key_block`, which is fixed, and on neither the row block
nor the tile. Strides are in bytes, per batch (``_b``), head of keys (``_h``), query head within the
group (``_g``) and position (``_s``); the last axis of every tensor is dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I64, PTR, TYPES, KernelBuilder, Val, Variable
from engine.codegen.expression import Expr, emit
from engine.codegen.halves import narrow, widen
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.math import exp_falling
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.pack import transpose
from engine.kernels.strips import Lanes, Part
from engine.kernels.tile import multiply, zeros

_AHEAD: Final = 512
"""Bytes of a panel that are fetched ahead of their use."""

_ROWS: Final = 4
"""Rows of scores that the softmax takes side by side."""

SCORE_GAP: Final = 16
"""Floats between rows of scores, which must not lie a multiple of the cache's period apart."""

_SIZES: Final = "heads group length keys size value_size past row_block row_items key_block"


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    extras = [f"e{i}" for i in range(len(options["access"]))]
    ints = [_SIZES, "k_b k_h k_s v_b v_h v_s"]
    ints += [f"{name}_b {name}_h {name}_g {name}_s" for name in ("q", "y", *extras)]
    return Layout.of(" ".join(["q", "k", "v", "y", *extras]), " ".join(ints))


def spec(
    value_vectors: int,
    access: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    score: Expr | None = None,
    *,
    causal: bool = False,
    guarded: bool = False,
    rounded: bool = False,
) -> KernelSpec:
    """Attention kernel; `value_vectors` is the width in vectors of the panels of packed values."""
    return KernelSpec.of(
        "attention",
        value_vectors=value_vectors,
        access=list(access),
        dtypes=list(dtypes),
        score=None if score is None else score.to_json(),
        causal=causal,
        guarded=guarded,
        rounded=rounded,
    )


def tallest(target: Target) -> int:
    """Rows that scratch must have beyond a row block."""
    return max(_ROWS, *(target.tile_rows(vectors) for vectors in target.panel_vectors))


def widths(target: Target) -> tuple[int, ...]:
    """Widths, in vectors, of panels of transposed keys, widest first."""
    return tuple(v for v in (2, 1) if v in target.panel_vectors)


class _Attention:
    """Generator of one attention kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, layout(options))
        self.lanes = Lanes(k, "float32")
        self.count = self.lanes.count
        self.vector = self.lanes.kind
        self.value_vectors: int = options["value_vectors"]
        self.access: list[str] = options["access"]
        self.dtypes: list[str] = options["dtypes"]
        stored = options["score"]
        self.score = None if stored is None else Expr.from_json(stored)
        self.causal: bool = options["causal"]
        self.guarded: bool = options["guarded"]
        self.rounded: bool = options["rounded"]
        self.widths = widths(target)
        self.tiles = {
            (height, vectors): self._tile(height, vectors)
            for vectors in sorted({*self.widths, self.value_vectors})
            for height in self._ladder(vectors)
        }

    def _ladder(self, vectors: int) -> tuple[int, ...]:
        return self.k.target.tile_ladder(vectors)

    # Arguments of a tile function: a, bytes between its rows, the panel, c, bytes between its rows,
    # steps of K, and 1 where c is added to.
    def _tile(self, height: int, vectors: int) -> Any:
        k, count = self.k, self.count
        function = k.local_function(f"tile_{height}x{vectors}", [PTR, I64, PTR, PTR, I64, I64, I64])
        with k.within(function) as (a, a_stride, b, c, c_stride, depth, adds):
            sums = zeros(k, height, vectors)
            places = [
                [k.offset(c, c_stride * row + v * count * 4) for v in range(vectors)]
                for row in range(height)
            ]
            with k.when(adds.differs(0)):
                for row in range(height):
                    for v in range(vectors):
                        sums[row][v].set(k.load(places[row][v], self.vector))
            panel, ahead = k.variable(b), k.variable(b)
            multiply(k, a, a_stride, panel, depth, sums, ahead, k.const(_AHEAD))
            for row in range(height):
                for v in range(vectors):
                    k.store(sums[row][v].get(), places[row][v])
            k.ret(0)
        return function

    def build(self) -> str:
        """IR text of the kernel."""
        k = self.k
        heads, group, length, keys, size, value_size, past, row_block, row_items, key_block = (
            k.ints(_SIZES)
        )
        self.size, self.value_size, self.length, self.past = size, value_size, length, past
        names = ["q", "k", "v", "y", *(f"e{i}" for i in range(len(self.access)))]
        tensors = {name: k.tensor(name) for name in names}
        self._split_scratch(row_block, key_block)
        rows = group * length
        with k.loop(k.begin, k.end) as item:
            row0 = item % row_items * row_block
            pair = item // row_items
            head, batch = pair % heads, pair // heads
            base = {
                name: k.offset(pointer, batch * k.int(f"{name}_b") + head * k.int(f"{name}_h"))
                for name, pointer in tensors.items()
            }
            count = k.minimum(row_block, rows - row0)
            self._enter_rows(base["q"], row0, count)
            stop = keys
            if self.causal:
                last = row0 + count - 1
                one_head = (row0 // length).equals(last // length)
                newest = k.select(one_head, last % length, length - 1)
                stop = k.maximum(k.minimum(keys, newest + past + 1), 0)
            with k.loop(0, stop, key_block) as first:
                held = k.minimum(key_block, stop - first)
                self._pack_keys(base["k"] + first * k.int("k_s"), held)
                self._pack_values(base["v"] + first * k.int("v_s"), held)
                self._scores(count, held)
                self._softmax(base, count, first, held)
                self._values(count, held, first)
            self._leave_rows(base["y"], row0, count)
        k.ret(0)
        return str(k.module)

    def _split_scratch(self, row_block: Val, key_block: Val) -> None:
        """Places of queries, results, scores, state of the rows, keys and values in scratch."""
        k, target = self.k, self.k.target
        rows = row_block + tallest(target)
        at = k.scratch()

        def take(size: Val) -> Val:
            nonlocal at
            place, at = at, k.offset(at, (size + 63) & -64)
            return place

        self.q_stride = (self.size * 4 + 63) & -64
        self.s_stride = (key_block + SCORE_GAP) * 4
        width = self.value_vectors * self.count
        self.panels = (self.value_size + (width - 1)) // width
        self.o_stride = self.panels * (width * 4)
        self.queries = take(rows * self.q_stride)
        self.results = take(rows * self.o_stride)
        self.scores = take(rows * self.s_stride)
        self.peaks = take(rows * 4)
        self.sums = take(rows * self.lanes.bytes)
        self.packed_values = take(key_block * self.o_stride)
        self.packed_keys = take(key_block * self.q_stride)
        self.entry = 8 * (1 + len(self.access))
        self.table = take(rows * self.entry)
        self.value_panel = key_block * (width * 4)

    def _walk_rows(self, row0: Val, count: Val, body: Callable[[Val, Val, Val], None]) -> None:
        """Call ``body(number, query head in the group, position)`` for the rows of an item."""
        k = self.k
        member, position = k.variable(row0 // self.length), k.variable(row0 % self.length)
        with k.loop(0, count) as row:
            body(row, member.get(), position.get())
            position.add(1)
            with k.when(position.get().equals(self.length)):
                position.set(0)
                member.add(1)

    def _enter_rows(self, q: Val, row0: Val, count: Val) -> None:
        """Queries side by side in scratch, results and sums zero, peaks at -inf.

        A table tells the position of each row and where its part of the extras begins; behind the
        last row it goes on with copies of it, since the softmax takes rows in groups.
        """
        k = self.k
        group_step, step = k.int("q_g"), k.int("q_s")
        steps = [(k.int(f"e{i}_g"), k.int(f"e{i}_s")) for i in range(len(self.access))]

        def enter(row: Val, member: Val, position: Val) -> None:
            source = k.offset(q, member * group_step + position * step)
            target = k.offset(self.queries, row * self.q_stride)
            self.lanes.sweep(self.size, 1, lambda part: part.store(part.load(source), target))
            result = k.offset(self.results, row * self.o_stride)
            self._each_vector(result, lambda at: k.store(self.lanes.fill(0), at))
            k.store(self.lanes.fill(0), k.offset(self.sums, row * self.lanes.bytes))
            k.store(k.const(float("-inf"), F32), k.offset(self.peaks, row * 4))
            note(row, position, [member * g + position * s for g, s in steps])

        def note(row: Val, position: Val, offsets: list[Val]) -> None:
            line = k.offset(self.table, row * self.entry)
            for place, value in enumerate([position, *offsets]):
                k.store(value, k.offset(line, 8 * place))

        self._walk_rows(row0, count, enter)
        last = k.offset(self.table, (count - 1) * self.entry)
        copied = [k.load(k.offset(last, 8 * i), I64) for i in range(1 + len(steps))]
        with k.loop(count, count + (_ROWS - 1)) as row:
            note(row, copied[0], copied[1:])

    def _each_vector(self, row: Val, body: Callable[[Val], None]) -> None:
        """Visit the vectors of a row of results; rows are padded to whole vectors."""
        with self.k.loop(0, self.o_stride, self.lanes.bytes) as byte:
            body(self.k.offset(row, byte))

    def _panels(self, held: Val, body: Callable[[Val, int], None]) -> None:
        """Call ``body(first key, vectors)`` for the panels of a block: wide ones, then narrow."""
        k = self.k
        column = k.variable(k.const(0))

        def choose(options: Sequence[int]) -> None:
            def emit_panel() -> None:
                body(column.get(), options[0])
                column.add(options[0] * self.count)

            if len(options) == 1:
                emit_panel()
                return
            left = held - column.get()
            with k.branch(left > options[1] * self.count) as (wide, narrow):
                with wide:
                    emit_panel()
                with narrow:
                    choose(options[1:])

        with k.while_(lambda: column.get() < held):
            choose(self.widths)

    def _pack_keys(self, source: Val, held: Val) -> None:
        """Transposed keys in panels; the panel of column c begins c columns into the memory."""
        k, lanes = self.k, self.count
        stride = k.int("k_s")

        def panel(column: Val, vectors: int) -> None:
            start = k.offset(self.packed_keys, column * self.size * 4)
            whole = self.size - self.size % lanes
            with k.loop(0, vectors) as v:
                first = column + v * lanes
                at = k.offset(start, v * (lanes * 4))
                # Columns behind the last key repeat it; nobody reads their scores.
                lines = [
                    k.offset(source, k.minimum(first + lane, held - 1) * stride)
                    for lane in range(lanes)
                ]
                with k.loop(0, whole, lanes) as step:
                    block = [k.load(k.offset(line, step * 4), self.vector) for line in lines]
                    for i, value in enumerate(transpose(k, block)):
                        k.store(value, k.offset(at, (step + i) * (vectors * lanes * 4)))
                with k.when(whole < self.size):
                    mask = k.mask(self.size - whole, lanes)
                    block = [self.lanes.load(k.offset(line, whole * 4), mask) for line in lines]
                    for i, value in enumerate(transpose(k, block)):
                        with k.when(self.size - whole > i):
                            k.store(value, k.offset(at, (whole + i) * (vectors * lanes * 4)))

        self._panels(held, panel)

    def _pack_values(self, source: Val, held: Val) -> None:
        """Values in panels, padded with zeros."""
        k, vectors = self.k, self.value_vectors
        stride, width = k.int("v_s"), vectors * self.count
        with k.loop(0, self.panels) as panel:
            start = k.offset(source, panel * (width * 4))
            target = k.offset(self.packed_values, panel * self.value_panel)
            columns = self.value_size - panel * width
            with k.branch(columns >= width) as arms:
                for arm, whole in zip(arms, (True, False), strict=True):
                    with arm:
                        masks = [
                            None if whole else k.mask(columns - v * self.count, self.count)
                            for v in range(vectors)
                        ]
                        with k.loop(0, held) as row:
                            for v, mask in enumerate(masks):
                                shift = v * self.lanes.bytes
                                value = self.lanes.load(k.offset(start, row * stride + shift), mask)
                                k.store(value, k.offset(target, row * (width * 4) + shift))

    def _product(
        self,
        vectors: int,
        count: Val,
        a: Val,
        a_stride: Val,
        b: Val,
        c: Val,
        c_stride: Val,
        depth: Val,
        adds: Val,
    ) -> None:
        """``c = a b``, or ``c += a b``, for `count` rows against one panel, tile by tile."""
        k = self.k
        row = k.variable(k.const(0))

        def tile(height: int) -> None:
            at = row.get()
            arguments = [
                k.offset(a, at * a_stride),
                a_stride,
                b,
                k.offset(c, at * c_stride),
                c_stride,
                depth,
                adds,
            ]
            k.call(self.tiles[height, vectors], arguments)
            row.add(height)

        def choose(ladder: Sequence[int]) -> None:
            if len(ladder) == 1:
                tile(ladder[0])
                return
            with k.branch(count - row.get() > ladder[1]) as (then, otherwise):
                with then:
                    tile(ladder[0])
                with otherwise:
                    choose(ladder[1:])

        with k.while_(lambda: row.get() < count):
            choose(self._ladder(vectors))

    def _scores(self, count: Val, held: Val) -> None:
        k = self.k

        def panel(column: Val, vectors: int) -> None:
            b = k.offset(self.packed_keys, column * self.size * 4)
            c = k.offset(self.scores, column * 4)
            self._product(
                vectors,
                count,
                self.queries,
                self.q_stride,
                b,
                c,
                self.s_stride,
                self.size,
                k.const(0),
            )

        self._panels(held, panel)

    def _values(self, count: Val, held: Val, first: Val) -> None:
        k, vectors = self.k, self.value_vectors
        adds = k.select(first > 0, k.const(1), k.const(0))
        with k.loop(0, self.panels) as panel:
            self._product(
                vectors,
                count,
                self.scores,
                self.s_stride,
                k.offset(self.packed_values, panel * self.value_panel),
                k.offset(self.results, panel * (vectors * self.lanes.bytes)),
                self.o_stride,
                held,
                adds,
            )

    def _softmax(self, base: dict[str, Val], count: Val, first: Val, held: Val) -> None:
        """Scores of a block become exponentials relative to the row's largest score so far.

        Rows go in groups, so that the latency of one row's folds is hidden by the others'.
        """
        k, lanes = self.k, self.lanes
        with k.loop(0, count, _ROWS) as group:
            rows = [group + i for i in range(_ROWS)]
            lines = [k.offset(self.scores, row * self.s_stride) for row in rows]
            extras = [self._extras(base, row, first) for row in rows]
            seen = None
            if self.causal:
                positions = [k.load(k.offset(self.table, row * self.entry), I64) for row in rows]
                seen = [position + (self.past + 1 - first) for position in positions]
            peaks = [k.variable(lanes.lowest) for _ in rows]

            def enter(part: Part) -> None:
                for i in range(_ROWS):
                    value = part.load(lines[i])
                    if self.score is not None:
                        value = self._transformed(value, extras[i], part)
                    if seen is not None:
                        visible = k.mask(seen[i] - part.start, lanes.count)
                        value = k.select(visible, value, lanes.lowest)
                    if self.score is not None or seen is not None:
                        k.store(value, k.offset(lines[i], part.byte))
                    value = part.keep(value, float("-inf"))
                    peaks[i].set(lanes.larger(value, peaks[i].get()))

            lanes.sweep(held, 1, enter)
            totals, shifts = [], []
            for i, row in enumerate(rows):
                at = k.offset(self.peaks, row * 4)
                before = k.load(at, F32)
                largest = lanes.fold(peaks[i].get(), lanes.larger)
                peak = k.select(largest > before, largest, before)
                k.store(peak, at)
                shift = k.select(peak.equals(float("-inf")), k.const(0.0, F32), peak)
                shifts.append(lanes.splat(shift))
                totals.append(k.variable(lanes.fill(0)))
                with k.when(first > 0):
                    self._rescale(row, lanes.splat(before) - shifts[i], totals[i])

            def exponentials(part: Part) -> None:
                for i in range(_ROWS):
                    at = k.offset(lines[i], part.byte)
                    value = exp_falling(k, k.load(at, self.vector) - shifts[i])
                    value = part.keep(value, 0.0)
                    factor = value
                    if self.rounded:
                        factor = widen(k, narrow(k, value, "bfloat16"), "bfloat16")
                    k.store(factor, at)
                    totals[i].add(value)

            lanes.sweep(held, 1, exponentials)
            for row, total in zip(rows, totals, strict=True):
                k.store(total.get(), k.offset(self.sums, row * lanes.bytes))

    def _rescale(self, row: Val, change: Val, total: Variable) -> None:
        """Bring a row's sums and results to a new peak."""
        k, lanes = self.k, self.lanes
        factor = exp_falling(k, change)
        total.set(k.load(k.offset(self.sums, row * lanes.bytes), self.vector) * factor)
        result = k.offset(self.results, row * self.o_stride)
        self._each_vector(result, lambda at: k.store(k.load(at, self.vector) * factor, at))

    def _extras(self, base: dict[str, Val], row: Val, first: Val) -> list[Val]:
        """Per extra, a row's pointer to the block's first key, or its one value."""
        k = self.k
        line = k.offset(self.table, row * self.entry)
        found = []
        for i, (access, dtype) in enumerate(zip(self.access, self.dtypes, strict=True)):
            at = k.offset(base[f"e{i}"], k.load(k.offset(line, 8 + 8 * i), I64))
            if access == "c":
                found.append(k.offset(at, first * element_bytes(dtype)))
            else:
                found.append(k.load(at, TYPES[dtype]))
        return found

    def _transformed(self, value: Val, extras: list[Val], part: Part) -> Val:
        """`f` of a vector of scores."""
        k = self.k
        assert self.score is not None
        inputs = [value]
        for extra, access, dtype in zip(extras, self.access, self.dtypes, strict=True):
            if access == "s":
                inputs.append(extra)
                continue
            at = k.offset(extra, part.start * element_bytes(dtype))
            kind = k.vector(TYPES[dtype], self.count)
            if part.mask is None:
                inputs.append(k.load(at, kind))
            else:
                inputs.append(k.masked_load(at, part.mask, kind))
        return emit(k, self.score, inputs)

    def _leave_rows(self, y: Val, row0: Val, count: Val) -> None:
        k, lanes = self.k, self.lanes
        group_step, step = k.int("y_g"), k.int("y_s")

        def leave(row: Val, member: Val, position: Val) -> None:
            source = k.offset(self.results, row * self.o_stride)
            target = k.offset(y, member * group_step + position * step)
            sums = k.load(k.offset(self.sums, row * lanes.bytes), self.vector)
            total = lanes.fold(sums, lambda a, b: a + b)
            inverse = lanes.splat(1.0 / total)
            empty = lanes.splat(total) > 0.0

            def store(part: Part) -> None:
                value = part.load(source) * inverse
                if self.guarded:
                    value = k.select(empty, value, lanes.fill(0))
                part.store(value, target)

            lanes.sweep(self.value_size, 1, store)

        self._walk_rows(row0, count, leave)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Attention(symbol, target, options).build()


ATTENTION: Final = register(
    Family("attention", "softmax of scaled and masked scores, times values", layout, _build)
)

__all__ = ["ATTENTION", "SCORE_GAP", "layout", "spec", "tallest", "widths"]

"""Ensembles of decision trees: every row of x goes to one leaf of every tree.

Two ways through a tree, chosen by the number of rows at hand; both find the same leaf, and leaves
are added in the order of the trees, so that bytes do not depend on the choice.

**Masks** (trees of at most 64 leaves, many rows): a bit per leaf, lowest for the leftmost. A node
whose condition fails makes the leaves below its left child impossible: it clears their bits. When
every node had its say, the lowest bit left is the leaf (QuickScorer; Lucchese et al., SIGIR 2015).
No node depends on another, so a node is a compare and a masked `and` on a vector of rows, without
a branch (vectorised over rows as in V-QuickScorer, SIGIR 2016). Rows lie transposed in scratch.

**Walks** (any tree): 8 walks at a time, of one row through 8 trees or of 8 rows through one tree,
interleaved so that their loads overlap. A step is branch-free; leaves lead to themselves, and the
loop ends when nobody moved.

A node is a record of threshold, feature (byte offset in the row; the sign bit says that missing
values go left) and the byte offsets of its children's records. Left is where ``x <= threshold``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I32, I64, PTR, TYPES, KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes

BLOCK: Final = 64
"""Most rows of a work item; a multiple of every group of vectors."""

_WALKS: Final = 8
_GROUP: Final = 2
"""Vectors of rows that masks are kept for at a time."""

_MANY: Final = 6
"""Rows from which masks are faster than walks, although they fill whole vectors (1000 trees of 31
leaves on one core with AVX-512: 65 µs for up to 32 rows, 11.5 µs for each row that walks)."""

RECORD: Final = {"float32": 16, "float64": 32}
"""Bytes of a node's record: a power of two, threshold first, then feature and children."""

SUM, MIN, MAX = "sum", "min", "max"


def _layout(options: Options) -> Layout:
    tensors = "x y base records roots weights targets"
    ints = "rows columns block trees outputs x_row"
    if options["leaves"]:
        tensors += " features q_features q_thresholds q_masks q_starts q_splits q_first"
        ints += " used"
    return Layout.of(tensors, ints)


class _Generator:
    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.leaves = int(options["leaves"])
        self.missing = bool(options["missing"])
        self.outputs = str(options["outputs"])
        self.combine = str(options["aggregate"])
        self.dtype = str(options["dtype"])
        self.kind, self.size = TYPES[self.dtype], element_bytes(self.dtype)
        self.record = RECORD[self.dtype]
        self.lanes = target.lanes(self.size)
        self.k = k = KernelBuilder(symbol, target, _layout(options))
        names = "x y base records roots weights targets"
        self.t = {name: k.tensor(name) for name in names.split()}
        ints = "rows columns block trees outputs x_row"
        self.n = dict(zip(ints.split(), k.ints(ints), strict=True))
        if self.leaves:
            extra = "features q_features q_thresholds q_masks q_starts q_splits q_first"
            self.t |= {name: k.tensor(name) for name in extra.split()}
            self.n["used"] = k.int("used")
            self.scratch = k.scratch()
        self.y_row = self.n["outputs"] * self.size

    def build(self) -> str:
        k, n = self.k, self.n
        # What the records say of columns must hold for the rows that came.
        with k.when(n["x_row"] < n["columns"] * self.size):
            k.ret(int(Status.INDEX_OUT_OF_RANGE))
        with k.loop(k.begin, k.end) as item:
            first = item * n["block"]
            count = k.minimum(n["rows"] - first, n["block"])
            x = self.t["x"] + first * n["x_row"]
            y = self.t["y"] + first * self.y_row
            few = _MANY if self.leaves else _WALKS
            with k.branch(count >= few) as (many, single):
                with many:
                    if self.leaves:
                        self._by_masks(x, y, count)
                    else:
                        self._by_rows(x, y, count)
                with single:
                    self._by_trees(x, y, count)
        k.ret()
        return str(k.module)

    # Walks.

    def _by_trees(self, x: Val, y: Val, count: Val) -> None:
        """Each row through 8 trees at a time."""
        k, trees = self.k, self.n["trees"]
        whole = trees - (trees & (_WALKS - 1))
        with k.loop(0, count) as row:
            source, to = x + row * self.n["x_row"], y + row * self.y_row
            self._start(to)
            total = k.variable(k.load(to, self.kind)) if self.outputs == "one" else None
            with k.loop(0, whole, _WALKS) as tree:
                roots = [self._root(tree + i) for i in range(_WALKS)]
                for i, leaf in enumerate(self._walk(roots, [source] * _WALKS)):
                    self._add(to, leaf, tree + i, total)
            with k.loop(whole, trees) as tree:
                (leaf,) = self._walk([self._root(tree)], [source])
                self._add(to, leaf, tree, total)
            if total is not None:
                k.store(total.get(), to)

    def _by_rows(self, x: Val, y: Val, count: Val) -> None:
        """8 rows at a time through each tree, the rest one by one."""
        k, trees = self.k, self.n["trees"]
        whole = count - (count & (_WALKS - 1))
        with k.loop(0, whole) as row:
            self._start(y + row * self.y_row)
        with k.loop(0, trees) as tree:
            root = self._root(tree)
            with k.loop(0, whole, _WALKS) as row:
                rows = [row + i for i in range(_WALKS)]
                sources = [x + r * self.n["x_row"] for r in rows]
                for r, leaf in zip(rows, self._walk([root] * _WALKS, sources), strict=True):
                    self._add(y + r * self.y_row, leaf, tree, None)
        self._by_trees(x + whole * self.n["x_row"], y + whole * self.y_row, count - whole)

    def _root(self, tree: Val) -> Val:
        k = self.k
        return k.convert(k.load(self.t["roots"] + tree * 4, I32), I64)

    def _walk(self, roots: Sequence[Val], sources: Sequence[Val]) -> list[Val]:
        """Offsets of the leaves' records that the rows reach."""
        k = self.k
        places = [k.variable(root) for root in roots]
        moved = k.variable(1, I64)
        with k.while_(lambda: moved.get().differs(0)):
            for last in (False, True):
                change: Val | None = None
                for place, source in zip(places, sources, strict=True):
                    old = place.get()
                    new = self._step(old, source)
                    place.set(new)
                    if last:
                        change = (old ^ new) if change is None else change | (old ^ new)
                if change is not None:
                    moved.set(change)
        return [place.get() for place in places]

    def _step(self, place: Val, source: Val) -> Val:
        """The child of the record at `place` for a row."""
        k = self.k
        record = self.t["records"] + place
        feature = k.load(record + self.size, I32)
        offset = k.convert(feature & 0x7FFFFFFF if self.missing else feature, I64)
        value, threshold = k.load(source + offset, self.kind), k.load(record, self.kind)
        left = value <= threshold
        if self.missing:
            absent = Val(k, k.b.fcmp_unordered("uno", value.v, value.v))
            left = left | (absent & (feature < 0))
        right = Val(k, k.b.zext(k.b.not_(left.v), I64))
        return k.convert(k.load(record + (right * 4 + (self.size + 4)), I32), I64)

    def _start(self, to: Val) -> None:
        """A row of results before the first tree."""
        k = self.k
        with k.loop(0, self.n["outputs"]) as c:
            k.store(k.load(self.t["base"] + c * self.size, self.kind), to + c * self.size)

    def _add(self, to: Val, leaf: Val, tree: Val, total: Variable | None) -> None:
        """Combine what the leaf (offset of its record) holds into a row of results."""
        self._add_row(to, leaf >> (self.record.bit_length() - 1), tree, total)

    def _add_row(self, to: Val, leaf: Val, tree: Val, total: Variable | None) -> None:
        k = self.k
        if self.outputs == "dense":
            source = self.t["weights"] + leaf * self.y_row
            wide = self.n["outputs"] - (self.n["outputs"] & (self.lanes - 1))
            for kind, start, stop, step in (
                (k.vector(self.kind, self.lanes), k.const(0), wide, self.lanes),
                (self.kind, wide, self.n["outputs"], 1),
            ):
                with k.loop(start, stop, step) as c:
                    at = to + c * self.size
                    value = k.load(source + c * self.size, kind)
                    k.store(self._combined(k.load(at, kind), value), at)
            return
        value = k.load(self.t["weights"] + leaf * self.size, self.kind)
        if total is not None:
            total.set(self._combined(total.get(), value))
            return
        at = to
        if self.outputs == "single":
            at = to + k.convert(k.load(self.t["targets"] + tree * 4, I32), I64) * self.size
        k.store(self._combined(k.load(at, self.kind), value), at)

    def _combined(self, a: Val, b: Val) -> Val:
        if self.combine == SUM:
            return a + b
        return self.k.select(b < a if self.combine == MIN else b > a, b, a)

    # Masks.

    def _by_masks(self, x: Val, y: Val, count: Val) -> None:
        k, n, size = self.k, self.n, self.size
        group = _GROUP * self.lanes
        padded = (count + (group - 1)) & ~(group - 1)
        rows = self.scratch
        results = rows + n["used"] * (BLOCK * size)
        self._transpose(x, rows, count, padded)
        dense = self.outputs == "dense"
        if dense:
            with k.loop(0, count) as row:
                self._start(y + row * self.y_row)
        else:
            vector = k.vector(self.kind, self.lanes)
            with k.loop(0, n["outputs"]) as c:
                base = k.splat(k.load(self.t["base"] + c * size, self.kind), self.lanes)
                with k.loop(0, padded, self.lanes) as row:
                    k.store(Val(k, k.b.bitcast(base.v, vector)), results + (c * BLOCK + row) * size)
        with k.loop(0, n["trees"]) as tree, k.loop(0, padded, group) as row:
            leaves = self._leaves(tree, rows + row * size)
            if dense:
                self._add_dense(y, row, count, leaves, tree, results)
            else:
                self._add_vectors(results + row * size, leaves, tree)
        if not dense:
            with k.loop(0, count) as row, k.loop(0, n["outputs"]) as c:
                value = k.load(results + (c * BLOCK + row) * size, self.kind)
                k.store(value, y + (row * n["outputs"] + c) * size)

    def _transpose(self, x: Val, rows: Val, count: Val, padded: Val) -> None:
        """The columns that trees read, one after the other; the last row fills up the group."""
        k, size = self.k, self.size
        with k.loop(0, padded) as row:
            source = x + k.minimum(row, count - 1) * self.n["x_row"]
            to = k.variable(rows + row * size, PTR)
            with k.loop(0, self.n["used"]) as j:
                offset = k.convert(k.load(self.t["features"] + j * 4, I32), I64)
                k.store(k.load(source + offset, self.kind), to.get())
                to.add(BLOCK * size)

    def _leaves(self, tree: Val, rows: Val) -> list[Val]:
        """Number of the leaf (from the tree's first) that each row of a group reaches."""
        k, lanes = self.k, self.lanes
        word = I32 if self.leaves == 32 else I64
        kind = k.vector(word, lanes)
        masks = [k.variable(k.const(-1, kind)) for _ in range(_GROUP)]
        vector = k.vector(self.kind, lanes)
        starts = self.t["q_starts"] + tree * 4
        start, end = (k.convert(k.load(starts + at, I32), I64) for at in (0, 4))
        split = end
        if self.missing:
            split = k.convert(k.load(self.t["q_splits"] + tree * 4, I32), I64)

        def judge(node: Val, failed: str) -> None:
            offset = k.convert(k.load(self.t["q_features"] + node * 4, I32), I64)
            threshold = k.load(self.t["q_thresholds"] + node * self.size, self.kind)
            keep = k.load(self.t["q_masks"] + node * (self.leaves // 8), word)
            limits, kept = k.splat(threshold, lanes), k.splat(keep, lanes)
            compare = k.b.fcmp_unordered if failed == "u" else k.b.fcmp_ordered
            for i, mask in enumerate(masks):
                values = k.load(rows + offset + i * lanes * self.size, vector)
                fails = Val(k, compare(">", values.v, limits.v))
                mask.set(k.select(fails, mask.get() & kept, mask.get()))

        with k.loop(start, split) as node:
            judge(node, "u")
        if self.missing:
            with k.loop(split, end) as node:
                judge(node, "o")
        name = f"llvm.cttz.v{lanes}i{word.width}"
        return [
            k.intrinsic(name, kind, [mask.get(), ir.Constant(ir.IntType(1), 1)]) for mask in masks
        ]

    def _first(self, tree: Val) -> Val:
        k = self.k
        return k.convert(k.load(self.t["q_first"] + tree * 4, I32), I64)

    def _add_vectors(self, results: Val, leaves: Sequence[Val], tree: Val) -> None:
        k, lanes, size = self.k, self.lanes, self.size
        values = self.t["weights"] + self._first(tree) * size
        if self.outputs == "single":
            column = k.convert(k.load(self.t["targets"] + tree * 4, I32), I64)
            results = results + column * (BLOCK * size)
        vector = k.vector(self.kind, lanes)
        for i, leaf in enumerate(leaves):
            at = results + i * lanes * size
            k.store(self._combined(k.load(at, vector), k.gather(values, leaf, vector)), at)

    def _add_dense(
        self, y: Val, row: Val, count: Val, leaves: Sequence[Val], tree: Val, numbers: Val
    ) -> None:
        """Rows of weights are added one by one; `numbers` is scratch for the leaves."""
        k, lanes = self.k, self.lanes
        width = self.leaves // 8
        word = I32 if self.leaves == 32 else I64
        for i, leaf in enumerate(leaves):
            k.store(leaf, numbers + i * lanes * width)
        first = self._first(tree)
        with k.loop(0, k.minimum(count - row, _GROUP * lanes)) as r:
            leaf = first + k.convert(k.load(numbers + r * width, word), I64)
            self._add_row(y + (row + r) * self.y_row, leaf, tree, None)


def scratch_bytes(options: dict[str, Any], used: Any, outputs: Any) -> Any:
    """Scratch of one thread for `used` columns and `outputs` results per row."""
    if not options["leaves"]:
        return 0
    size = element_bytes(options["dtype"])
    return (used + outputs) * (BLOCK * size) + BLOCK * 8


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Generator(symbol, target, options).build()


TREES: Final = register(Family("trees", "ensembles of decision trees", _layout, _build))

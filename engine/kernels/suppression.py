"""Non-maximum suppression of boxes.

A work item is one class of one image. Its candidates (scores above the floor) are sorted by falling
score, ties by rising number, and taken greedily: a box is kept unless it overlaps one that was kept
before by more than the threshold. Kept boxes lie in arrays of their own per coordinate, so that a
candidate meets a vector of them at a time, and the division of areas is due only where some box of
the vector intersects. Areas and their ratio are rounded as in ONNX Runtime, so that they
compare alike.

`suppress` writes numbers of boxes and how many there are; `kept_boxes` writes ONNX's triples once
the host knows the total.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.codegen.abi import Context, Layout
from engine.codegen.builder import F32, I32, I64, KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.nonzero import bit_mask, lowest_bit
from engine.kernels.radix import COUNTERS, DIGIT, ordered_bits, sorter

RECORD: Final = 8
"""Bytes of a candidate: its number in the low half of the word, the score's bits in the high."""

_COORDINATES: Final = 5
"""Arrays of kept boxes: smallest and largest y and x, area."""

_FIRST: Final = 4
"""Candidates that are sorted first, per box that is wanted at most; many overlap."""

PADDING: Final = 64
"""Elements that the arrays of kept boxes are longer than the boxes: the widest vector."""


def workspace_bytes() -> tuple[int, int]:
    """(constant, per box) bytes of one thread's memory."""
    return COUNTERS + 4 * _COORDINATES * PADDING, 2 * RECORD + 4 * _COORDINATES


def _layout(options: Options) -> Layout:
    return Layout.of(
        "boxes scores most overlap floor kept counts workspace",
        "count classes capacity workspace_bytes",
    )


class _Suppression:
    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.k = KernelBuilder(symbol, target, _layout(options))
        self.options = options
        self.lanes = target.lanes(4)

    def build(self) -> str:
        k = self.k
        boxes, scores, kept, counts = (k.tensor(n) for n in ("boxes", "scores", "kept", "counts"))
        count, classes, capacity, size = k.ints("count classes capacity workspace_bytes")
        most = k.load(k.tensor("most"), I64)
        overlap = k.load(k.tensor("overlap"), F32)
        floor = k.load(k.tensor("floor"), F32) if self.options["floor"] else None
        sort = sorter(k, RECORD, 32, 64)
        thread = k.load(k.offset(k.context, Context.THREAD), I64)
        counters = k.tensor("workspace") + thread * size
        records = counters + COUNTERS
        spare = records + count * RECORD
        first = spare + count * RECORD
        arrays = [first + (count + PADDING) * (4 * place) for place in range(_COORDINATES)]
        limit = k.minimum(k.maximum(most, 0), capacity)
        with k.loop(k.begin, k.end) as item:
            found = k.variable(0, I64)
            with k.when(limit > 0):
                line = scores + item * count * 4
                cut, border = self.split(line, count, floor, limit, counters)
                numbers = self.candidates(line, count, floor, records, cut, border)
                image = boxes + item // classes * count * 16
                target = kept + item * capacity * 4
                for start, number in zip((k.const(0), border * RECORD), numbers, strict=True):
                    with k.when((number > 0) & (found.get() < limit)):
                        ordered = k.call(sort, [records + start, spare + start, counters, number])
                        self.greedy(
                            image, (ordered, number), arrays, overlap, (found, limit), target
                        )
            k.store(found.get(), counts + item * 8)
        k.ret()
        return str(k.module)

    def each(
        self, scores: Val, count: Val, floor: Val | None, body: Callable[[Val, Val], None]
    ) -> None:
        """Run `body` on number and key of every score above the floor; keys rise as scores fall."""
        k, lanes = self.k, self.lanes

        def one(i: Val) -> None:
            bits = ordered_bits(k, k.load(scores + i * 4, F32)) ^ -1
            body(i, k.convert(bits, I64, signed=False))

        if floor is None:
            with k.loop(0, count) as i:
                one(i)
            return
        whole = count - count % lanes
        with k.loop(0, whole, lanes) as i:
            block = k.load(scores + i * 4, k.vector(F32, lanes))
            bits = k.variable(bit_mask(k, block > k.splat(floor, lanes), lanes))
            with k.while_(lambda: bits.get().differs(0)):
                one(i + lowest_bit(k, bits.get()))
                bits.set(bits.get() & (bits.get() - 1))
        with k.loop(whole, count) as i, k.when(k.load(scores + i * 4, F32) > floor):
            one(i)

    def split(
        self, scores: Val, count: Val, floor: Val | None, limit: Val, counters: Val
    ) -> tuple[Val, Val]:
        """Largest leading digit of the keys that are looked at first, and how many these are.

        Where few boxes are wanted, sorting all candidates would take most of the time.
        """
        k = self.k
        cut, border = k.variable((1 << DIGIT) - 1, I64), k.variable(count)
        with k.when(count > limit * (2 * _FIRST)):
            with k.loop(0, 1 << DIGIT) as digit:
                k.store(k.const(0), counters + digit * 8)

            def tally(_: Val, key: Val) -> None:
                counter = counters + (key >> (32 - DIGIT)) * 8
                k.store(k.load(counter, I64) + 1, counter)

            self.each(scores, count, floor, tally)
            cut.set(-1)
            border.set(0)
            enough = limit * _FIRST
            with k.while_(lambda: (border.get() < enough) & (cut.get() < (1 << DIGIT) - 1)):
                cut.add(1)
                border.add(k.load(counters + cut.get() * 8, I64))
        return cut.get(), border.get()

    def candidates(
        self, scores: Val, count: Val, floor: Val | None, records: Val, cut: Val, border: Val
    ) -> tuple[Val, Val]:
        """Write the records, those to be looked at first first; how many there are of either."""
        k = self.k
        first, second = k.variable(0, I64), k.variable(border)

        def add(i: Val, key: Val) -> None:
            record = (key << 32) | i
            with k.branch((key >> (32 - DIGIT)) <= cut) as (early, late):
                with early:
                    k.store(record, records + first.get() * RECORD)
                    first.add(1)
                with late:
                    k.store(record, records + second.get() * RECORD)
                    second.add(1)

        self.each(scores, count, floor, add)
        return first.get(), second.get() - border

    def corners(self, box: Val) -> list[Val]:
        """Smallest and largest y, smallest and largest x, area of a box in memory."""
        k = self.k
        a, b, c, d = (k.load(box + 4 * place, F32) for place in range(4))
        if self.options["center"]:
            half_width, half_height = c * 0.5, d * 0.5
            y = (b - half_height, b + half_height)
            x = (a - half_width, a + half_width)
        else:
            y, x = ((k.select(p >= q, q, p), k.select(p >= q, p, q)) for p, q in ((a, c), (b, d)))
        return [*y, *x, (x[1] - x[0]) * (y[1] - y[0])]

    def greedy(
        self,
        image: Val,
        records: tuple[Val, Val],
        arrays: Sequence[Val],
        overlap: Val,
        found: tuple[Variable, Val],
        kept: Val,
    ) -> None:
        """Take the candidates in order; `found` counts what is kept, up to a limit."""
        k = self.k
        (place, number), (total, limit) = records, found
        at = k.variable(0, I64)
        with k.while_(lambda: (at.get() < number) & (total.get() < limit)):
            index = k.load(place + at.get() * RECORD, I64) & 0xFFFFFFFF
            box = self.corners(image + index * 16)
            with k.when(self.is_covered(box, arrays, total.get(), overlap).equals(0)):
                for array, value in zip(arrays, box, strict=True):
                    k.store(value, array + total.get() * 4)
                k.store(k.convert(index, I32), kept + total.get() * 4)
                total.add(1)
            at.add(1)

    def is_covered(self, box: Sequence[Val], arrays: Sequence[Val], kept: Val, most: Val) -> Val:
        """Not 0 where a kept box overlaps `box` by more than `most`, a ratio of areas."""
        k, lanes = self.k, self.lanes
        y_low, y_high, x_low, x_high, area = (k.splat(value, lanes) for value in box)
        covered, at = k.variable(0, I64), k.variable(0, I64)
        with k.while_(lambda: (at.get() < kept) & covered.get().equals(0)):
            own = [k.load(array + at.get() * 4, k.vector(F32, lanes)) for array in arrays]
            top = k.select(own[0] > y_low, own[0], y_low)
            bottom = k.select(own[1] < y_high, own[1], y_high)
            left = k.select(own[2] > x_low, own[2], x_low)
            right = k.select(own[3] < x_high, own[3], x_high)
            meet = (bottom > top) & (right > left) & k.mask(kept - at.get(), lanes)
            with k.when(bit_mask(k, meet, lanes).differs(0)):
                common = (right - left) * (bottom - top)
                union = own[4] + area - common
                over = (common > 0.0) & (own[4] > 0.0) & (area > 0.0) & (union > 0.0)
                over = over & (common / union > k.splat(most, lanes)) & meet
                covered.set(bit_mask(k, over, lanes))
            at.add(lanes)
        return covered.get()


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Suppression(symbol, target, options).build()


SUPPRESS: Final = register(Family("suppress", "non-maximum suppression of boxes", _layout, _build))


def _kept_layout(options: Options) -> Layout:
    return Layout.of("kept starts y", "classes capacity")


def _build_kept(symbol: str, target: Target, options: Options) -> str:
    """Rows (image, class, box) of what was kept; `starts` says where a class begins."""
    k = KernelBuilder(symbol, target, _kept_layout(options))
    kept, starts, y = (k.tensor(name) for name in ("kept", "starts", "y"))
    classes, capacity = k.ints("classes capacity")
    with k.loop(k.begin, k.end) as item:
        first = k.load(starts + item * 8, I64)
        last = k.load(starts + (item * 8 + 8), I64)
        number = k.minimum(last - first, capacity)
        with k.loop(0, number) as i:
            box = k.convert(k.load(kept + (item * capacity + i) * 4, I32), I64)
            row = y + (first + i) * 24
            for place, value in enumerate((item // classes, item % classes, box)):
                k.store(value, row + 8 * place)
    k.ret()
    return str(k.module)


KEPT: Final = register(
    Family("kept_boxes", "triples of the boxes that were kept", _kept_layout, _build_kept)
)

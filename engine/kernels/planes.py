"""Convolution of images of few channels, with output columns as the vector axis.

The first layers of image networks have three channels or one, and often few filters. Channels-last
kernels then sum a few products per output and leave lanes empty. Here a vector holds neighbouring
columns of one output channel: no lane is empty whatever the number of channels, and a maximum over
2 x 2 outputs is taken in registers, so that the image before pooling never reaches memory.

A work item is a block of output rows of one image. It first copies the input rows that it reads
into scratch: zeros where the padding is, columns sorted by their remainder modulo the step between
outputs, so that whatever the stride every tap is a dense load. Then, for a run of columns and a
block of channels, all taps are summed in registers, in the order channel, row, column of the
window; the epilogue follows, then pooling. Finished columns are transposed, channels last.

Options: ``kernel``, ``strides`` (rows, columns), ``pool`` (1, or 2 for the maximum of 2 x 2),
``block`` channels and ``vectors`` of columns at a time, and the epilogue as for the dot kernel, all
of whose inputs are per channel or scalar. Strides and pads of the parameters:

- ``height, width, o``: rows, columns and channels of the output (after pooling);
- ``inner_height, inner_width``: rows and columns before pooling, which may clip its last windows;
- ``rows, row_blocks``: output rows per item, items per image;
- ``c, x_height, x_width, x_n, x_c, x_h, x_w``: the input, strides in bytes;
- ``top, left``: rows and columns of padding before the input;
- ``span``: elements of scratch per input row and remainder of the column;
- ``y_n, y_h, y_w``: strides of the output in bytes; its channels are dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I32, KernelBuilder, Val, Variable
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes
from engine.kernels.transpose import picked_lanes, transposed

_INTS: Final = (
    "height width o inner_height inner_width rows row_blocks "
    "c x_height x_width x_n x_c x_h x_w top left span y_n y_h y_w"
)


@dataclass(frozen=True)
class Shape:
    """How many channels and vectors of columns a step computes."""

    block: int
    vectors: int
    blocks: int

    @property
    def channels(self) -> int:
        """Channels with those that fill the last block."""
        return self.block * self.blocks


def shape_for(outputs: int, pool: int, target: Target) -> Shape:
    """The step for a number of output channels: few idle channels, then many sums at a time.

    Registers hold the sums, one vector per position and a broadcast.
    """
    positions = pool * pool
    most = max(1, (target.registers - positions - 2) // positions)

    def waste(block: int) -> float:
        return -(-outputs // block) * block / outputs

    block = min(range(1, min(most, outputs) + 1), key=lambda b: (waste(b) > 1.1, -b))
    vectors = 1 if pool > 1 else max(1, min(4, (target.registers - 6) // block))
    return Shape(block, vectors, -(-outputs // block))


def steps(kernel: Sequence[int], strides: Sequence[int], pool: int) -> tuple[int, int, int, int]:
    """Rows and columns from one output to the next, and those that one output reads."""
    (kh, kw), (sh, sw) = kernel, strides
    return sh * pool, sw * pool, (pool - 1) * sh + kh, (pool - 1) * sw + kw


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    extras = (f"e{i}" for i in range(len(options["inputs"])))
    return Layout.of(tensors=" ".join(["x", "w", "y", *extras]), ints=_INTS)


def spec(
    kernel: Sequence[int],
    strides: Sequence[int],
    pool: int,
    shape: Shape,
    inputs: Sequence[str] = (),
    epilogue: Expr | None = None,
) -> KernelSpec:
    """Kernel for a window, its step and its epilogue."""
    return KernelSpec.of(
        "planes",
        kernel=list(kernel),
        strides=list(strides),
        pool=pool,
        block=shape.block,
        vectors=shape.vectors,
        inputs=list(inputs),
        epilogue=None if epilogue is None else epilogue.to_json(),
    )


class _Planes:
    """Generator of one kernel."""

    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.window: list[int] = options["kernel"]
        self.strides: list[int] = options["strides"]
        self.pool: int = options["pool"]
        self.block: int = options["block"]
        self.vectors: int = options["vectors"]
        self.inputs: list[str] = options["inputs"]
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.row_step, self.column_step, self.reach, _ = steps(self.window, self.strides, self.pool)
        self.lanes = Lanes(k, "float32")
        self.columns: int = self.vectors * self.lanes.count

    def build(self) -> None:
        """The kernel itself: walks items."""
        k = self.k
        height, width, o, rows, row_blocks, c = k.ints("height width o rows row_blocks c")
        y_n, y_h, span = k.ints("y_n y_h span")
        x, w, y = k.tensor("x"), k.tensor("w"), k.tensor("y")
        pitch = span * (4 * self.column_step)
        lines = (rows - 1) * self.row_step + self.reach
        finished = k.scratch()
        planes = k.offset(finished, self._finished_bytes(o))
        with k.loop(k.begin, k.end) as item:
            image, row0 = item // row_blocks, item % row_blocks * rows
            count = k.minimum(rows, height - row0)
            source = k.offset(x, image * k.int("x_n"))
            self._fill(source, planes, row0, count, lines * pitch, pitch)
            target = k.offset(y, image * y_n + row0 * y_h)
            with k.loop(0, count) as row, k.loop(0, width, self.columns) as column:
                at = k.offset(planes, row * self.row_step * pitch + column * 4)
                clips = self._clips(row0 + row, column)
                self._channels(at, w, o, c, lines * pitch, pitch, finished, clips)
                self._write(k.offset(target, row * y_h), column, width, o, finished)
        k.ret(0)

    def _finished_bytes(self, o: Val) -> Val:
        """Scratch of a run of columns: whole vectors and whole blocks of channels."""
        bytes_per_channel = self.columns * 4
        return (o + (self.block + self.lanes.count)) * bytes_per_channel

    def _fill(self, x: Val, planes: Val, row0: Val, count: Val, plane: Val, pitch: Val) -> None:
        """Copy the rows that an item reads, zeros where they lie outside of the image."""
        k = self.k
        c, x_height, x_c, x_h, top = k.ints("c x_height x_c x_h top")
        first = row0 * self.row_step - top
        with k.loop(0, c) as channel, k.loop(0, (count - 1) * self.row_step + self.reach) as line:
            row = first + line
            target = k.offset(planes, channel * plane + line * pitch)
            inside = (row >= 0) & (row < x_height)
            with k.branch(inside) as (then, otherwise):
                with then:
                    source = k.offset(x, channel * x_c + row * x_h)
                    for phase in range(self.column_step):
                        self._copy(source, target, phase)
                with otherwise:
                    self._zero(target, k.const(0), k.int("span") * self.column_step)

    def _zero(self, target: Val, first: Val, stop: Val) -> None:
        """Zero elements from `first` on; up to a vector behind `stop`, before that is written."""
        k = self.k
        with k.loop(first, stop, self.lanes.count) as i:
            k.store(self.lanes.fill(0), k.offset(target, i * 4))

    def _copy(self, x: Val, target: Val, phase: int) -> None:
        """Copy the columns of one remainder of a row, between zeros for the padding."""
        k, step, lanes = self.k, self.column_step, self.lanes.count
        x_width, x_w, left, span = k.ints("x_width x_w left span")
        line = k.offset(target, span * (4 * phase))
        start = k.maximum(left - phase + (step - 1), 0) // step
        source = start * step + phase - left
        count = k.maximum(x_width - source + (step - 1), 0) // step
        self._zero(line, k.const(0), start)
        line, source = k.offset(line, start * 4), k.offset(x, source * x_w)
        done = k.variable(k.const(0))
        # The last vector of a step above 1 reads up to the next column of its remainder.
        whole = k.select(x_w.equals(4), count - lanes - (0 if step == 1 else 1), k.const(-1))
        with k.while_(lambda: done.get() <= whole):
            at = k.offset(source, done.get() * (4 * step))
            shifts = range(0, step * self.lanes.bytes, self.lanes.bytes)
            parts = [k.load(k.offset(at, shift), self.lanes.kind) for shift in shifts]
            places = [divmod(lane * step, lanes) for lane in range(lanes)]
            k.store(picked_lanes(k, parts, places), k.offset(line, done.get() * 4))
            done.add(lanes)
        with k.loop(done.get(), count) as i:
            k.store(k.load(k.offset(source, i * step * x_w), F32), k.offset(line, i * 4))
        self._zero(line, count, span - start)

    def _clips(self, row: Val, column: Val) -> list[Val]:
        """Which lanes of each position that pooling joins lie in the image before it."""
        k, lanes = self.k, self.lanes.count
        inner_height, inner_width = k.ints("inner_height inner_width")
        within: list[Val] = []
        for down in range(self.pool):
            below = row * self.pool + down < inner_height
            for right in range(self.pool):
                columns = (inner_width - right + (self.pool - 1)) // self.pool - column
                within.append(k.mask(k.select(below, columns, k.const(0)), lanes))
        return within

    def _channels(
        self,
        at: Val,
        w: Val,
        o: Val,
        c: Val,
        plane: Val,
        pitch: Val,
        finished: Val,
        clips: list[Val],
    ) -> None:
        """All channels of a run of columns, transposed to scratch: a row per channel."""
        k = self.k
        kh, kw = self.window
        taps = c * (kh * kw * self.block * 4)
        with k.loop(0, (o + (self.block - 1)) // self.block) as block:
            weights = k.variable(k.offset(w, block * taps))
            sums = [
                [k.variable(self.lanes.fill(0)) for _ in range(self.pool**2 * self.vectors)]
                for _ in range(self.block)
            ]
            with k.loop(0, c) as channel, k.loop(0, kh) as row:
                line = k.offset(at, channel * plane + row * pitch)
                for column in range(kw):
                    self._tap(line, column, weights.get(), sums, pitch)
                weights.add(kw * self.block * 4)
            for index, line_sums in enumerate(sums):
                channel = block * self.block + index
                values = [self._finish(total, channel) for total in line_sums]
                target = k.offset(finished, channel * (self.columns * 4))
                for v, value in enumerate(self._pooled(values, clips)):
                    k.store(value, k.offset(target, v * self.lanes.bytes))

    def _tap(
        self, line: Val, column: int, weights: Val, sums: list[list[Variable]], pitch: Val
    ) -> None:
        """Add one tap to the sums of every position and channel."""
        k = self.k
        inputs = []
        for down in range(self.pool):
            below = k.offset(line, pitch * (down * self.strides[0]))
            for right in range(self.pool):
                ahead, phase = divmod(right * self.strides[1] + column, self.column_step)
                source = k.offset(below, k.int("span") * (4 * phase))
                for v in range(self.vectors):
                    shift = 4 * ahead + v * self.lanes.bytes
                    inputs.append(k.load(k.offset(source, shift), self.lanes.kind))
        for index, totals in enumerate(sums):
            weight = k.load(k.offset(weights, (column * self.block + index) * 4), F32)
            factor = self.lanes.splat(weight)
            for value, total in zip(inputs, totals, strict=True):
                total.set(k.fma(factor, value, total.get()))

    def _finish(self, total: Variable, channel: Val) -> Val:
        """The epilogue of one vector of a channel."""
        k = self.k
        if self.epilogue is None:
            return total.get()
        inputs = [total.get()]
        for i, access in enumerate(self.inputs):
            place = k.tensor(f"e{i}")
            if access == "column":
                place = k.offset(place, channel * 4)
            inputs.append(self.lanes.splat(k.load(place, F32)))
        return emit(k, self.epilogue, inputs)

    def _pooled(self, values: list[Val], clips: list[Val]) -> list[Val]:
        """Maximum over the positions that pooling joins; the first always lies in the image."""
        if self.pool == 1:
            return values
        best = values[0]
        for value, within in zip(values[1:], clips[1:], strict=True):
            best = self.k.select(within, self.lanes.larger(best, value), best)
        return [best]

    def _write(self, y: Val, column: Val, width: Val, o: Val, finished: Val) -> None:
        """Write a run of columns, channels last."""
        k, lanes = self.k, self.lanes.count
        y_w = k.int("y_w")
        pitch = self.columns * 4
        bits = k.vector(I32, lanes)
        with k.loop(0, o, lanes) as channel:
            rest = o - channel
            mask = k.mask(rest, lanes)
            for v in range(self.vectors):
                at = k.offset(finished, channel * pitch + v * self.lanes.bytes)
                rows = [k.load(k.offset(at, r * pitch), bits) for r in range(lanes)]
                for i, pixel in enumerate(transposed(k, rows)):
                    place = column + (v * lanes + i)
                    target = k.offset(y, place * y_w + channel * 4)
                    with k.when(place < width):
                        if k.target.masks:
                            k.masked_store(pixel, target, mask)
                            continue
                        with k.branch(rest >= lanes) as (whole, part):
                            with whole:
                                k.store(pixel, target)
                            with part:
                                k.masked_store(pixel, target, mask)


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Planes(k, options).build()
    return str(k.module)


PLANES = register(Family("planes", "convolution of images of few channels", layout, _build))

__all__ = ["PLANES", "Shape", "layout", "shape_for", "spec", "steps"]

"""1x1 convolution to few channels, from channels-last pixels to channels-first planes.

The heads of detectors have two to eight channels each and lead out of the network, where tensors
are channels-first. The dot kernel would leave most lanes of its vectors empty and write rows of a
few elements that are then parted and transposed. Here a vector holds neighbouring pixels: tiles of
pixels and input channels are transposed in registers, and every output channel sums one
multiply-add per input channel, in their order. Several heads that read the same pixels share them.

A work item is a strip of `STRIP` pixels of a row. Options: ``heads``, output channels of each
head, and the epilogue as for the dot kernel, whose inputs are per channel or scalar. Strides of the
parameters are in bytes:

- ``height, width, strips``: rows of an image, pixels per row, items per row;
- ``c, x_n, x_h, x_w``: the input, its channels dense;
- ``y<i>_n, y<i>_c, y<i>_h``: output i, its pixels dense.

Filters are [C, O] over the channels of all heads, zeros up to a whole vector of input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I32, KernelBuilder, Val, Variable
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes
from engine.kernels.transpose import transposed

STRIP: Final = 256
"""Pixels per work item."""


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    outputs = [f"y{i}" for i in range(len(options["heads"]))]
    extras = [f"e{i}" for i in range(len(options["inputs"]))]
    strides = " ".join(f"{name}_n {name}_c {name}_h" for name in outputs)
    return Layout.of(
        tensors=" ".join(["x", "w", *outputs, *extras]),
        ints=f"height width strips c x_n x_h x_w {strides}",
    )


def spec(
    heads: Sequence[int], inputs: Sequence[str] = (), epilogue: Expr | None = None
) -> KernelSpec:
    """Kernel for heads of so many channels, and their epilogue."""
    stored = None if epilogue is None else epilogue.to_json()
    return KernelSpec.of("heads", heads=list(heads), inputs=list(inputs), epilogue=stored)


class _Heads:
    """Generator of one kernel."""

    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.heads: list[int] = options["heads"]
        self.inputs: list[str] = options["inputs"]
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.lanes = Lanes(k, "float32")

    def build(self) -> None:
        """The kernel itself: walks items."""
        k, lanes = self.k, self.lanes.count
        height, width, strips, x_n, x_h, x_w = k.ints("height width strips x_n x_h x_w")
        x = k.tensor("x")
        targets = [k.tensor(f"y{i}") for i in range(len(self.heads))]
        with k.loop(k.begin, k.end) as item:
            line, first = item // strips, item % strips * STRIP
            image, row = line // height, line % height
            source = k.offset(x, image * x_n + row * x_h + first * x_w)
            places = [
                k.offset(y, image * k.int(f"y{i}_n") + row * k.int(f"y{i}_h") + first * 4)
                for i, y in enumerate(targets)
            ]
            count = k.minimum(width - first, STRIP)
            with k.loop(0, count, lanes) as at:
                pixels = k.offset(source, at * x_w)
                left = count - at
                ends = [k.offset(place, at * 4) for place in places]
                with k.branch(left >= lanes) as arms:
                    for arm, whole in zip(arms, (True, False), strict=True):
                        with arm:
                            self._pixels(pixels, ends, None if whole else left)
        k.ret(0)

    def _pixels(self, pixels: Val, places: list[Val], left: Val | None) -> None:
        """One vector of pixels, or the `left` of them that are within the strip."""
        k, lanes = self.k, self.lanes.count
        x_w, c = k.ints("x_w c")
        last = None if left is None else left - 1
        lines = [
            k.offset(pixels, (k.minimum(k.const(i), last) if last is not None else i) * x_w)
            for i in range(lanes)
        ]
        outputs = sum(self.heads)
        sums = [k.variable(self.lanes.fill(0)) for _ in range(outputs)]
        weights = k.variable(k.tensor("w"))
        whole = c - c % lanes
        with k.loop(0, whole, lanes) as channel:
            self._channels(lines, channel, None, weights, sums)
        with k.when(whole < c):
            self._channels(lines, whole, k.mask(c - whole, lanes), weights, sums)
        mask = None if left is None else k.mask(left, lanes)
        first = 0
        for head, (place, count) in enumerate(zip(places, self.heads, strict=True)):
            for plane in range(count):
                target = k.offset(place, k.int(f"y{head}_c") * plane)
                value = self._finish(sums[first + plane], first + plane)
                self.lanes.store(value, target, mask)
            first += count

    def _channels(
        self,
        lines: list[Val],
        channel: Val,
        mask: Val | None,
        weights: Variable,
        sums: list[Variable],
    ) -> None:
        """Add a vector of input channels, those that `mask` selects, to all sums."""
        k = self.k
        bits = k.vector(I32, self.lanes.count)
        rows = [
            k.bitcast(self.lanes.load(k.offset(line, channel * 4), mask), bits) for line in lines
        ]
        for values in transposed(k, rows):
            for total in sums:
                factor = self.lanes.splat(k.load(weights.get(), F32))
                total.set(k.fma(k.bitcast(values, self.lanes.kind), factor, total.get()))
                weights.add(4)

    def _finish(self, total: Variable, channel: int) -> Val:
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


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Heads(k, options).build()
    return str(k.module)


HEADS = register(Family("heads", "1x1 convolution to few channels, channels-first", layout, _build))

__all__ = ["HEADS", "STRIP", "layout", "spec"]

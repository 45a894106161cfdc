"""Pooling over channels-last images: the kernel family ``pool``.

A work item is one output row of one image. Channels are vectorised; a window at the border is
clipped, so no halo is read. Columns whose window lies inside the image and has the usual width of
2 or 3 run with the window's columns unrolled.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

AXES: Final = ("d", "h", "w")
"""Spatial axes; images of fewer use the last ones."""

_VECTORS: Final = 4
"""Vectors of channels kept in registers at a time: enough independent chains to hide latency."""


def axes_of(options: Options) -> tuple[str, ...]:
    """Names of the spatial axes of a spec."""
    return AXES[3 - int(options["rank"]) :]


def _layout(options: Options) -> Layout:
    ints = ["channels", "x_n", "y_n"]
    for axis in axes_of(options):
        names = ("size", "out", "kernel", "stride", "pad", "pad_end", "dilation", "x", "y")
        ints.extend(f"{name}_{axis}" for name in names)
    return Layout.of("x y", " ".join(ints))


class _Pool:
    """Generator of one pooling kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.k = KernelBuilder(symbol, target, _layout(options))
        self.axes = axes_of(options)
        self.op: str = options["op"]
        self.dilated: bool = options["dilated"]
        self.unrolled: int = options["unrolled"]
        self.include_pad: bool = options["include_pad"]
        self.lanes = Lanes(self.k, options["dtype"])
        self.x, self.y = self.k.tensor("x"), self.k.tensor("y")
        names = [name for name in self.k.layout.fields if name not in ("x", "y")]
        self.n = {name: self.k.int(name) for name in names}
        size = self.lanes.itemsize
        for axis in ("n", *self.axes):
            self.n[f"x_{axis}"] = self.n[f"x_{axis}"] * size
            self.n[f"y_{axis}"] = self.n[f"y_{axis}"] * size
        for axis in self.axes:
            self.n[f"hop_{axis}"] = self.n[f"dilation_{axis}"] * self.n[f"x_{axis}"]

    def build(self) -> str:
        """IR text of the kernel."""
        k, n = self.k, self.n
        with k.loop(k.begin, k.end) as item:
            rest, source, target = item, self.x, self.y
            count: Val | None = None
            taps: dict[str, Val] = {}
            for axis in reversed(self.axes[:-1]):
                position = rest % n[f"out_{axis}"]
                rest = rest // n[f"out_{axis}"]
                first, taps[axis], share = self.clip(axis, position)
                source = source + first * n[f"x_{axis}"]
                target = target + position * n[f"y_{axis}"]
                count = share if count is None else count * share
            source = source + rest * n["x_n"]
            target = target + rest * n["y_n"]
            with k.loop(0, n["out_w"]) as column:
                self.column(column, source, target, taps, count)
        k.ret()
        return str(k.module)

    def clip(self, axis: str, position: Val) -> tuple[Val, Val, Val]:
        """First input position of the window, its taps inside the image, its share of the mean."""
        k, n = self.k, self.n
        start = position * n[f"stride_{axis}"] - n[f"pad_{axis}"]
        size, kernel, dilation = n[f"size_{axis}"], n[f"kernel_{axis}"], n[f"dilation_{axis}"]
        below, room = k.maximum(-start, 0), size - start
        if self.dilated:
            below = (below + dilation - 1) // dilation
            room = (k.maximum(room, 0) + dilation - 1) // dilation
            first = start + below * dilation
        else:
            first = start + below
        taps = k.minimum(kernel, room) - below
        if not self.include_pad:
            return first, taps, taps
        within = size + n[f"pad_end_{axis}"] - start
        if self.dilated:
            within = (within + dilation - 1) // dilation
        return first, taps, k.minimum(kernel, within)

    def column(
        self, column: Val, source: Val, target: Val, taps: dict[str, Val], count: Val | None
    ) -> None:
        """One output pixel."""
        k, n = self.k, self.n
        first, width, share = self.clip("w", column)
        source = source + first * n["x_w"]
        target = target + column * n["y_w"]
        scale: Val | None = None
        if self.op == "average":
            total = share if count is None else count * share
            scale = 1.0 / k.convert(total, self.lanes.scalar)

        def body(part: Part, unrolled: int) -> None:
            totals = [k.variable(self.initial(part.lanes)) for _ in range(part.vectors)]
            self.window(source + part.byte, {**taps, "w": width}, unrolled, part, totals)
            for vector, total in enumerate(totals):
                part.store(self.finish(total.get(), scale, part.lanes), target, vector)

        if not self.unrolled:
            self.lanes.sweep(n["channels"], _VECTORS, lambda part: body(part, 0))
            return
        with k.branch(width.equals(self.unrolled)) as (whole, clipped):
            with whole:
                self.lanes.sweep(n["channels"], _VECTORS, lambda part: body(part, self.unrolled))
            with clipped:
                self.lanes.sweep(n["channels"], 1, lambda part: body(part, 0))

    def window(
        self,
        source: Val,
        taps: dict[str, Val],
        unrolled: int,
        part: Part,
        totals: list[Variable],
        level: int = 0,
    ) -> None:
        """Accumulate the window's taps, one loop per axis."""
        k, axis = self.k, self.axes[level]
        if level == len(self.axes) - 1 and unrolled:
            for tap in range(unrolled):
                self.tap(source + self.n["hop_w"] * tap, part, totals)
            return
        pointer = k.variable(source)
        with k.loop(0, taps[axis]):
            if level == len(self.axes) - 1:
                self.tap(pointer.get(), part, totals)
            else:
                self.window(pointer.get(), taps, unrolled, part, totals, level + 1)
            pointer.add(self.n[f"hop_{axis}"])

    def tap(self, pixel: Val, part: Part, totals: list[Variable]) -> None:
        """Accumulate one input pixel."""
        lanes = part.lanes
        for vector, total in enumerate(totals):
            value = lanes.load(pixel + vector * lanes.bytes, part.mask)
            if self.op == "max":
                total.set(lanes.larger(value, total.get()))
            elif self.op == "l2":
                total.set(self.k.fma(value, value, total.get()))
            else:
                total.add(self.k.unary("fabs", value) if self.op == "l1" else value)

    def initial(self, lanes: Lanes) -> Val:
        """What a window without taps amounts to."""
        return lanes.lowest if self.op == "max" else lanes.fill(0)

    def finish(self, value: Val, scale: Val | None, lanes: Lanes) -> Val:
        """Result of a window from its accumulated taps."""
        if scale is not None:
            return value * scale
        return self.k.unary("sqrt", value) if self.op == "l2" else value


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Pool(symbol, target, options).build()


register(
    Family(
        "pool",
        "maximum, mean and norm over windows of channels-last images",
        _layout,
        _build,
    )
)

"""Depthwise convolution, channels-last: one filter per channel, so channels are the vector axis.

The input carries a zero halo, so no window is clipped. A step computes `_COLUMNS` output columns of
one vector of channels: each filter vector is loaded once per step, and every input line is used
whole. Products are summed in the order of the window's rows, then columns.

Work items are (image, output row, block of `channels` channels). Strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, KernelBuilder, Val
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target

_COLUMNS: Final = 8
"""Output columns per step: enough independent sums to hide the latency of multiply-add."""


def layout(options: Options) -> Layout:
    """Parameter block; ``e<i>`` are the epilogue's inputs."""
    extras = [f"e{i}" for i in range(len(options["inputs"]))]
    ints = ["height width c kh kw channels blocks x_n x_h x_w x_kh x_kw y_n y_h y_w"]
    for name, access in zip(extras, options["inputs"], strict=True):
        if access == "tile":
            ints.append(f"{name}_n {name}_h {name}_w")
    return Layout.of(tensors=" ".join(["x", "w", "y", *extras]), ints=" ".join(ints))


def spec(inputs: Sequence[str] = (), epilogue: Expr | None = None) -> KernelSpec:
    """Depthwise kernel; `inputs` and `epilogue` as for the dot kernel."""
    stored = None if epilogue is None else epilogue.to_json()
    return KernelSpec.of("depthwise", inputs=list(inputs), epilogue=stored)


class _Depthwise:
    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.inputs: list[str] = options["inputs"]
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.lanes = k.target.lanes()
        self.vector = k.vector(F32, self.lanes)
        names = ["x", "w", "y", *(f"e{i}" for i in range(len(self.inputs)))]
        self.bases = {name: k.tensor(name) for name in names}

    def _load(self, at: Val, mask: Val | None) -> Val:
        if mask is None:
            return self.k.load(at, self.vector)
        return self.k.masked_load(at, mask, self.vector)

    def kernel(self) -> None:
        k = self.k
        height, width, c, channels, blocks = k.ints("height width c channels blocks")
        with k.loop(k.begin, k.end) as item:
            block, line = item % blocks, item // blocks
            image, row = line // height, line % height
            rows = {
                name: k.offset(
                    self.bases[name], image * k.int(f"{name}_n") + row * k.int(f"{name}_h")
                )
                for name in self.bases
                if f"{name}_h" in k.layout.fields
            }
            first = block * channels
            stop = k.minimum(first + channels, c)
            whole = stop - (stop - first) % self.lanes
            with k.loop(first, whole, self.lanes) as channel:
                self._line(rows, channel, width, None)
            with k.when(whole < stop):
                self._line(rows, whole, width, k.mask(stop - whole, self.lanes))
        k.ret(0)

    def _line(self, rows: dict[str, Val], channel: Val, width: Val, mask: Val | None) -> None:
        """One output row of one vector of channels."""
        k = self.k
        whole = width - width % _COLUMNS
        with k.loop(0, whole, _COLUMNS) as column:
            self._columns(rows, channel, column, _COLUMNS, mask)
        with k.loop(whole, width) as column:
            self._columns(rows, channel, column, 1, mask)

    def _columns(
        self, rows: dict[str, Val], channel: Val, column: Val, count: int, mask: Val | None
    ) -> None:
        k = self.k
        kh, kw, c = k.ints("kh kw c")
        x_w, x_kh, x_kw = k.ints("x_w x_kh x_kw")
        source = k.offset(rows["x"], column * x_w + channel * 4)
        filters = k.variable(k.offset(self.bases["w"], channel * 4))
        sums = [k.variable(k.const(0, self.vector)) for _ in range(count)]
        with k.loop(0, kh) as i:
            line = k.variable(k.offset(source, i * x_kh))
            with k.loop(0, kw):
                weight = self._load(filters.get(), mask)
                for u, total in enumerate(sums):
                    value = self._load(k.offset(line.get(), x_w * u), mask)
                    total.set(k.fma(value, weight, total.get()))
                line.add(x_kw)
                filters.add(c * 4)
        for u, total in enumerate(sums):
            value = total.get()
            place = column + u
            if self.epilogue is not None:
                inputs = [value]
                for index, access in enumerate(self.inputs):
                    name = f"e{index}"
                    if access == "scalar":
                        inputs.append(k.splat(k.load(self.bases[name], F32), self.lanes))
                        continue
                    base = self.bases[name]
                    if access == "tile":
                        base = k.offset(rows[name], place * k.int(f"{name}_w"))
                    inputs.append(self._load(k.offset(base, channel * 4), mask))
                value = emit(k, self.epilogue, inputs)
            at = k.offset(rows["y"], place * k.int("y_w") + channel * 4)
            if mask is None:
                k.store(value, at)
            else:
                k.masked_store(value, at, mask)


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Depthwise(k, options).kernel()
    return str(k.module)


DEPTHWISE = register(Family("depthwise", "convolution with one filter per channel", layout, _build))

__all__ = ["DEPTHWISE", "layout", "spec"]

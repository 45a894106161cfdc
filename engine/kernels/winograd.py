"""Winograd convolution F(4x4, 3x3) and F(2x2, 3x3), channels-last, stride 1, in float32.

A work item takes a block of output tiles of 4x4 pixels through three phases in its own scratch, so
that nothing but input and output pixels travels through memory: transform the 6x6 input patches to
36 matrices V [tiles, C]; multiply each by its matrix U [C, O] of transformed filters, packed in
panels as for the dot kernel; transform the 36 products back to 4x4 pixels, epilogue included. A
quarter of the multiplications of the direct sum is left (Lavin and Gray, arXiv 1509.09308). With
tiles of 2x2 pixels, patches of 4x4 and 16 matrices it is 4/9, from less than half the weights.

The input carries a zero halo that reaches as far as the last, partly unused tiles do. Each output
is computed in an order that depends on C alone: blocking and threads do not change bytes.

Options: ``outputs``, pixels per tile and axis (4 or 2); ``vectors`` and the epilogue as for the dot
kernel. Work items are (block of tiles, block of panels); strides are in bytes:

- ``tiles, tiles_h, tiles_w``: tiles in all, per image column and row; ``height, width``: of y;
- ``c, n``: input and output channels; ``row``: bytes of a row of V; ``panel, matrix``: bytes of a
  panel and of one of the packed matrices;
- ``m_block, n_block, m_items, n_items``: tiles and panels per item, numbers of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I64, PTR, KernelBuilder, Val, Variable
from engine.codegen.expression import Expr, emit
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target
from engine.kernels.tile import UNROLL, multiply, zeros

TAPS: Final = 3
"""Taps of the window per axis."""

OUTPUTS: Final = (4, 2)
"""Pixels per tile and axis of every variant."""


def patch(outputs: int) -> int:
    """Input pixels per tile and axis; its square is the number of matrices."""
    return outputs + TAPS - 1


def layout(options: Options) -> Layout:
    """Parameter block; see the module's text."""
    extras = [f"e{i}" for i in range(len(options["inputs"]))]
    ints = ["tiles tiles_h tiles_w height width c n row panel matrix"]
    ints.append("m_block n_block m_items n_items x_n x_h x_w y_n y_h y_w")
    for name, access in zip(extras, options["inputs"], strict=True):
        if access == "tile":
            ints.append(f"{name}_n {name}_h {name}_w")
    return Layout.of(tensors=" ".join(["x", "u", "y", *extras]), ints=" ".join(ints))


def spec(
    outputs: int, vectors: int, inputs: Sequence[str] = (), epilogue: Expr | None = None
) -> KernelSpec:
    """Kernel for tiles of `outputs` pixels per axis; the rest as for the dot kernel."""
    stored = None if epilogue is None else epilogue.to_json()
    return KernelSpec.of(
        "winograd", outputs=outputs, vectors=vectors, inputs=list(inputs), epilogue=stored
    )


def transform_inputs(k: KernelBuilder, d: Sequence[Val]) -> list[Val]:
    """``Bᵀ d`` of `cook_toom.transforms`, by what its rows share: 14 operations for (4, 3)."""
    if len(d) == patch(2):
        return [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
    v, w = d[4] - d[2], d[3] - d[1]
    even, odd = _add(k, v, d[3], 1.5), _add(k, w, d[2], 1.5)
    return [
        _add(k, d[0] - d[2] + v, w, 1.5),
        even + odd,
        even - odd,
        _add(k, v, w, 2.0),
        _add(k, v, w, -0.5),
        _add(k, d[5] - d[3] - w, v, 1.5),
    ]


def transform_products(k: KernelBuilder, p: Sequence[Val]) -> list[Val]:
    """``Aᵀ p`` of `cook_toom.transforms`, by what its rows share: 12 operations for (4, 3)."""
    total, difference = p[1] + p[2], p[1] - p[2]
    if len(p) == patch(2):
        return [p[0] + total, difference + p[3]]
    return [
        p[0] + total + (p[3] + p[4]),
        _add(k, _add(k, difference, p[3], 0.5), p[4], -2.0),
        _add(k, _add(k, total, p[3], 0.25), p[4], 4.0),
        _add(k, _add(k, difference + p[5], p[3], 0.125), p[4], -8.0),
    ]


def _add(k: KernelBuilder, total: Val, value: Val, factor: float) -> Val:
    """``total + factor * value``."""
    return k.fma(value, k.const(factor, value.type), total)


class _Winograd:
    def __init__(self, k: KernelBuilder, options: Options) -> None:
        self.k = k
        self.outputs: int = options["outputs"]
        self.size = patch(self.outputs)
        self.positions = self.size**2
        self.vectors: int = options["vectors"]
        self.inputs: list[str] = options["inputs"]
        stored = options["epilogue"]
        self.epilogue = None if stored is None else Expr.from_json(stored)
        self.lanes = k.target.lanes()
        self.width = self.vectors * self.lanes
        self.vector = k.vector(F32, self.lanes)
        self.ladder = k.target.tile_ladder(self.vectors)
        self.multiply = {height: self._multiply(height) for height in self.ladder}
        self.patch = self._patch()
        extras = [PTR] * len(self.inputs)
        self.back = self._back(extras)

    # -- phase 1: words, x (patch and channel), v (tile and channel), channels left, plane -------

    def _patch(self) -> Any:
        k = self.k
        function = k.local_function("patch", [PTR, PTR, PTR, I64, I64])
        with k.within(function) as (words, x, v, left, plane):
            saved, k.words = k.words, words
            x_h, x_w = k.ints("x_h x_w")
            with k.branch(left >= self.lanes) as arms:
                for arm, whole in zip(arms, (True, False), strict=True):
                    with arm:
                        mask = None if whole else k.mask(left, self.lanes)
                        self._transform_patch(x, v, x_h, x_w, plane, mask)
            k.ret(0)
            k.words = saved
        return function

    def _transform_patch(
        self, x: Val, v: Val, x_h: Val, x_w: Val, plane: Val, mask: Val | None
    ) -> None:
        k = self.k
        half: list[list[Val]] = []
        for j in range(self.size):
            column = [self._load(k.offset(x, x_h * i + x_w * j), mask) for i in range(self.size)]
            half.append(transform_inputs(k, column))
        for i in range(self.size):
            line = [half[j][i] for j in range(self.size)]
            for j, value in enumerate(transform_inputs(k, line)):
                k.store(value, k.offset(v, plane * (i * self.size + j)))

    def _load(self, at: Val, mask: Val | None) -> Val:
        if mask is None:
            return self.k.load(at, self.vector)
        return self.k.masked_load(at, mask, self.vector)

    # -- phase 2: a (first row of V), row bytes, panel, product, product row bytes, depth, ahead --

    def _multiply(self, height: int) -> Any:
        k = self.k
        function = k.local_function(f"multiply_{height}", [PTR, I64, PTR, PTR, I64, I64, PTR])
        with k.within(function) as (a, row, b, product, product_row, depth, ahead):
            sums = zeros(k, height, self.vectors)
            panel, fetched, near = k.variable(b), k.variable(ahead), k.const(1024)
            multiply(k, a, row, panel, depth, sums, fetched, near, self._lines(height))
            for i in range(height):
                for v in range(self.vectors):
                    at = k.offset(product, product_row * i + v * self.lanes * 4)
                    k.store(sums[i][v].get(), at)
            k.ret(0)
        return function

    def _lines(self, height: int) -> int:
        """Cache lines that a tile of so many rows fetches ahead per `UNROLL` steps.

        Three tiles of the full height, or two lower ones, fetch a whole panel.
        """
        panel: int = UNROLL * self.width * 4 // 64
        return -(-panel // (3 if height == self.ladder[0] else 2))

    # -- phase 3: words, products (tile and column), plane, y, rows and columns left, columns of n

    def _back(self, extras: list[Any]) -> Any:
        k = self.k
        function = k.local_function("back", [PTR, PTR, I64, PTR, I64, I64, I64, *extras])
        with k.within(function) as (words, product, plane, y, rows, columns, left, *inputs):
            saved, k.words = k.words, words
            with k.branch(left >= self.lanes) as arms:
                for arm, whole in zip(arms, (True, False), strict=True):
                    with arm:
                        mask = None if whole else k.mask(left, self.lanes)
                        self._transform_back(product, plane, y, rows, columns, inputs, mask)
            k.ret(0)
            k.words = saved
        return function

    def _transform_back(
        self,
        product: Val,
        plane: Val,
        y: Val,
        rows: Val,
        columns: Val,
        inputs: list[Val],
        mask: Val | None,
    ) -> None:
        k = self.k
        half: list[list[Val]] = []
        for j in range(self.size):
            column = [
                k.load(k.offset(product, plane * (i * self.size + j)), self.vector)
                for i in range(self.size)
            ]
            half.append(transform_products(k, column))
        shared = {
            i: k.splat(k.load(base, F32), self.lanes)
            if access == "scalar"
            else self._load(base, mask)
            for i, (base, access) in enumerate(zip(inputs, self.inputs, strict=True))
            if access != "tile"
        }
        for i in range(self.outputs):
            line = [half[j][i] for j in range(self.size)]
            values = transform_products(k, line)
            with k.when(rows > i):
                for j, value in enumerate(values):
                    with k.when(columns > j):
                        self._pixel(value, y, inputs, shared, i, j, mask)

    def _pixel(
        self,
        value: Val,
        y: Val,
        inputs: list[Val],
        shared: dict[int, Val],
        i: int,
        j: int,
        mask: Val | None,
    ) -> None:
        k = self.k
        if self.epilogue is not None:
            operands = [value]
            for index, base in enumerate(inputs):
                if index in shared:
                    operands.append(shared[index])
                    continue
                name = f"e{index}"
                at = k.offset(base, k.int(f"{name}_h") * i + k.int(f"{name}_w") * j)
                operands.append(self._load(at, mask))
            value = emit(k, self.epilogue, operands)
        at = k.offset(y, k.int("y_h") * i + k.int("y_w") * j)
        if mask is None:
            k.store(value, at)
        else:
            k.masked_store(value, at, mask)

    # -- the kernel -------------------------------------------------------------------------------

    def kernel(self) -> None:
        k = self.k
        names = ["x", "u", "y", *(f"e{i}" for i in range(len(self.inputs)))]
        bases = {name: k.tensor(name) for name in names}
        tiles, n, row, m_block, n_block, n_items = k.ints("tiles n row m_block n_block n_items")
        rows = m_block + self.ladder[0]
        plane = rows * row
        v = k.scratch()
        product = k.offset(v, plane * self.positions)
        product_row = n_block * (self.width * 4) + 64
        product_plane = rows * product_row
        panels = (n + (self.width - 1)) // self.width
        filled = k.variable(k.const(-1))
        with k.loop(k.begin, k.end) as item:
            panel_item, block = item % n_items, item // n_items
            tile0 = block * m_block
            count = k.minimum(m_block, tiles - tile0)
            with k.when(filled.get().differs(block)):
                self._fill(bases["x"], v, tile0, count, plane)
                filled.set(block)
            panel0 = panel_item * n_block
            panel1 = k.minimum(panel0 + n_block, panels)
            with k.loop(0, self.positions) as position:
                a = k.offset(v, position * plane)
                target = k.offset(product, position * product_plane)
                self._product(bases["u"], a, target, product_row, position, panel0, panel1, count)
            self._empty(bases, product, product_row, product_plane, tile0, count, panel0, panel1)
        k.ret(0)

    def _place(self, tile: Val) -> tuple[Val, Val, Val]:
        """Image, first output row and first output column of a tile."""
        k = self.k
        tiles_h, tiles_w = k.ints("tiles_h tiles_w")
        line, column = tile // tiles_w, tile % tiles_w
        return line // tiles_h, line % tiles_h * self.outputs, column * self.outputs

    def _fill(self, x: Val, v: Val, tile0: Val, count: Val, plane: Val) -> None:
        k = self.k
        c, row, x_n, x_h, x_w = k.ints("c row x_n x_h x_w")
        with k.loop(0, count) as tile:
            image, top, left = self._place(tile0 + tile)
            source = k.offset(x, image * x_n + top * x_h + left * x_w)
            target = k.offset(v, tile * row)
            with k.loop(0, c, self.lanes) as channel:
                byte = channel * 4
                at = (k.words, k.offset(source, byte), k.offset(target, byte), c - channel, plane)
                k.call(self.patch, at)

    def _product(
        self,
        u: Val,
        a: Val,
        target: Val,
        product_row: Val,
        position: Val,
        panel0: Val,
        panel1: Val,
        count: Val,
    ) -> None:
        k = self.k
        c, row, panel_bytes, matrix = k.ints("c row panel matrix")
        with k.loop(panel0, panel1) as panel:
            b = k.offset(u, position * matrix + panel * panel_bytes)
            # What is read next: the panel behind, or the first one of the next position.
            behind = (panel + 1 < panel1) | (position.equals(self.positions - 1))
            jump = matrix - (panel - panel0) * panel_bytes
            start = k.offset(b, k.select(behind, panel_bytes, jump))
            fetched = k.variable(start)
            stop = k.offset(start, panel_bytes)
            column = k.offset(target, (panel - panel0) * (self.width * 4))
            at = k.variable(k.const(0))

            def multiply(
                height: int,
                b: Val = b,
                column: Val = column,
                at: Variable = at,
                fetched: Variable = fetched,
                stop: Val = stop,
            ) -> None:
                first = k.offset(a, at.get() * row)
                place = k.offset(column, at.get() * product_row)
                # Enough is fetched: what is in use anyway.
                ahead = k.select(fetched.get() < stop, fetched.get(), b)
                k.call(self.multiply[height], (first, row, b, place, product_row, c, ahead))
                fetched.add(c // UNROLL * (self._lines(height) * 64))
                at.add(height)

            with k.while_(lambda at=at: at.get() < count):  # type: ignore[misc]
                self._choose(self.ladder, count, at, multiply)

    def _choose(self, ladder: Sequence[int], count: Val, at: Variable, multiply: Any) -> None:
        """The tallest tile, or for the rest the lowest that covers it (scratch has the room)."""
        if len(ladder) == 1:
            multiply(ladder[0])
            return
        with self.k.branch(count - at.get() > ladder[1]) as (then, otherwise):
            with then:
                multiply(ladder[0])
            with otherwise:
                self._choose(ladder[1:], count, at, multiply)

    def _empty(
        self,
        bases: dict[str, Val],
        product: Val,
        product_row: Val,
        product_plane: Val,
        tile0: Val,
        count: Val,
        panel0: Val,
        panel1: Val,
    ) -> None:
        k = self.k
        n, height, width = k.ints("n height width")
        first = panel0 * self.width
        stop = k.minimum(panel1 * self.width, n)
        with k.loop(0, count) as tile:
            image, top, left = self._place(tile0 + tile)
            places = {
                name: k.offset(
                    bases[name],
                    image * k.int(f"{name}_n")
                    + top * k.int(f"{name}_h")
                    + left * k.int(f"{name}_w"),
                )
                for name in bases
                if f"{name}_h" in k.layout.fields
            }
            with k.loop(first, stop, self.lanes) as column:
                byte = column * 4
                inputs = []
                for i, access in enumerate(self.inputs):
                    base = places.get(f"e{i}", bases[f"e{i}"])
                    inputs.append(base if access == "scalar" else k.offset(base, byte))
                arguments = [
                    k.words,
                    k.offset(product, tile * product_row + (column - first) * 4),
                    product_plane,
                    k.offset(places["y"], byte),
                    height - top,
                    width - left,
                    n - column,
                    *inputs,
                ]
                k.call(self.back, arguments)


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, layout(options))
    _Winograd(k, options).kernel()
    return str(k.module)


WINOGRAD = register(
    Family("winograd", "3x3 convolution by minimal filtering F(4x4) or F(2x2)", layout, _build)
)

__all__ = ["OUTPUTS", "WINOGRAD", "layout", "patch", "spec"]

"""Recurrent layers over whole sequences: the kernel family ``recurrent``.

The projections of all inputs, with their biases, are computed beforehand by one dot call. This
kernel runs the steps: a work item is a block of rows (sequences) of one direction, from the first
step to the last, with its state in scratch. Per step and panel of hidden columns a register tile
multiplies the rows' states with the recurrent weights of all gates of these columns, then the
gates are combined while the sums are in L1. Weights are read once per step and row tile.

Hidden columns are padded to whole vectors, ``padded`` in all. Formats, ``[...]`` row-major:

- recurrent weights: [directions, panels, padded, gates, lanes]: row k of a panel holds, gate by
  gate, what state k adds to the panel's columns;
- projections: per step and row [directions, panels, gates, lanes].

Every sum over the state runs in the order of k in one accumulator, so the result does not depend
on how rows are blocked. Gates are in ONNX order: LSTM input, output, forget, cell; GRU update,
reset, hidden. A GRU that applies the reset gate before the product (cell ``gru``) needs its hidden
gate in a second pass over its own weights ``r2``; ``gru_linear`` applies it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import F32, I32, I64, PTR, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.activations import activation
from engine.kernels.strips import Lanes

GATES: Final = {"lstm": 4, "gru": 3, "gru_linear": 3, "rnn": 1}
"""Gates of each cell, in projections."""

PASSES: Final = {"lstm": (4,), "gru": (2, 1), "gru_linear": (3,), "rnn": (1,)}
"""Gates whose recurrent sums each pass over the panels computes."""

Combine = Callable[[Val, Val, Val], None]
"""Called with a row of the block, a panel and the place of their sums."""

_CHAINS: Final = 8
"""Independent accumulators that hide the latency of multiply-add at full speed."""


@dataclass(frozen=True)
class Tile:
    """A register tile: rows of states times panels of weights."""

    rows: int
    panels: int


def single_tiles(target: Target, gates: int) -> list[Tile]:
    """Tiles of one row, narrowest first: as many panels as hide the latency, and their halves."""
    wanted = max(1, _CHAINS // gates)
    panels = min(wanted, max(1, (target.registers - 2) // gates))
    return [Tile(1, 1 << shift) for shift in range(panels.bit_length())]


def several_tiles(target: Target, gates: int) -> list[Tile]:
    """Tiles of two and more rows, lowest first, all of the same number of panels.

    Accumulators, the weights of one step and a broadcast must fit the registers; more than eight
    rows have no registers for their pointers. Taking four gates in two halves allows more rows, but
    has not run faster with 16 registers or 32 (measured on a Xeon at 2.5 GHz, hidden sizes 64-512).
    """
    panels = 2 if gates == 1 else 1
    width = gates * panels
    most = min(8, (target.registers - width - 1) // width)
    return [Tile(rows, panels) for rows in range(2, most + 1)]


def scratch_bytes(cell: str, target: Target) -> tuple[int, int]:
    """Scratch as (bytes in all, and bytes per row and padded hidden column on top)."""
    widest = max(
        gates * tile.rows * tile.panels
        for gates in PASSES[cell]
        for tile in (*single_tiles(target, gates), *several_tiles(target, gates))
    )
    states = {"lstm": 3, "gru": 4, "gru_linear": 2, "rnn": 2}[cell]
    return widest * target.vector_bytes + 64, states * 4


def _layout(options: Options) -> Layout:
    tensors = ["x", "r"]
    ints = ["steps", "rows", "row_block", "row_blocks", "hidden", "padded", "reverse"]
    ints.extend(("x_t", "x_b"))
    cell = options["cell"]
    if cell == "gru":
        tensors.append("r2")
    if cell == "gru_linear":
        tensors.append("rb")
    if options["peephole"]:
        tensors.append("peephole")
    if options["lengths"]:
        tensors.append("lengths")
    for name in (*options["initial"], *options["outputs"]):
        tensors.append(name)
        ints.extend((f"{name}_d", f"{name}_b"))
        if name == "y":
            ints.append("y_t")
    return Layout.of(" ".join(tensors), " ".join(ints), "clip" if options["clip"] else "")


class _Recurrent:
    """Generator of one recurrent kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, _layout(options))
        self.options = options
        self.cell: str = options["cell"]
        self.functions: Sequence[Sequence[Any]] = options["activations"]
        self.lanes = Lanes(k, "float32")
        self.tiles = {
            gates: {
                tile: self.tile(gates, tile)
                for tile in (*single_tiles(target, gates), *several_tiles(target, gates))
            }
            for gates in PASSES[self.cell]
        }
        fields = k.layout.fields
        self.p = {n: k.tensor(n) for n, f in fields.items() if f.kind == "tensor"}
        self.n = {n: k.int(n) for n, f in fields.items() if f.kind == "int"}
        self.clip = self.lanes.splat(k.float("clip")) if options["clip"] else None
        self.pitch = self.n["padded"] * 4
        self.panels = self.n["padded"] // self.lanes.count

    def tile(self, gates: int, tile: Tile) -> Any:
        """Function that multiplies a tile's rows of states with its panels of weights.

        Arguments: states, bytes between rows, weights, bytes between panels, sums
        [rows, panels, gates, lanes] to be written, length of a state.
        """
        k, lanes = self.k, self.lanes
        rows, panels = tile.rows, tile.panels
        unroll = 4 if rows * panels * gates <= 12 else 2
        name = f"tile_{gates}_{rows}_{panels}"
        function = k.local_function(name, [PTR, I64, PTR, I64, PTR, I64])
        with k.within(function) as (states, pitch, weights, panel, sums, length):
            row_shifts = [pitch * row for row in range(rows)]
            panel_shifts = [panel * p for p in range(panels)]
            columns = [(p, g) for p in range(panels) for g in range(gates)]
            totals = [[k.variable(lanes.fill(0)) for _ in columns] for _ in range(rows)]
            state, weight = k.variable(states), k.variable(weights)
            with k.loop(0, length, unroll):
                for step in range(unroll):
                    factors = [
                        k.load(
                            weight.get() + panel_shifts[p] + (step * gates + g) * lanes.bytes,
                            lanes.kind,
                        )
                        for p, g in columns
                    ]
                    for row in range(rows):
                        value = k.load(state.get() + row_shifts[row] + step * 4, F32)
                        spread = lanes.splat(value)
                        for total, factor in zip(totals[row], factors, strict=True):
                            total.set(k.fma(spread, factor, total.get()))
                state.add(unroll * 4)
                weight.add(unroll * gates * lanes.bytes)
            for index, total in enumerate(total for row in totals for total in row):
                k.store(total.get(), sums + index * lanes.bytes)
            k.ret()
        return function

    def build(self) -> str:
        """IR text of the kernel."""
        k, n = self.k, self.n
        with k.loop(k.begin, k.end) as item:
            direction = item // n["row_blocks"]
            first = item % n["row_blocks"] * n["row_block"]
            rows = k.minimum(n["rows"] - first, n["row_block"])
            reversed_ = (direction + n["reverse"]).equals(1)
            self.block(direction, first, rows, reversed_)
        k.ret()
        return str(k.module)

    def block(self, direction: Val, first: Val, rows: Val, reversed_: Val) -> None:
        """All steps of a block of rows."""
        k, n = self.k, self.n
        if self.options["lengths"]:
            with k.loop(0, rows) as row:
                length = self.length_of(first + row)
                with k.when((length < 0) | (length > n["steps"])):
                    k.ret(Status.INDEX_OUT_OF_RANGE)
        area = rows * self.pitch
        old = k.variable(k.scratch())
        new = k.variable(k.scratch() + area)
        rest = k.scratch() + area * 2
        places: dict[str, Val] = {}
        for name in {"lstm": ("c",), "gru": ("z", "rh")}.get(self.cell, ()):
            places[name] = rest
            rest = rest + area
        self.initialise("h0", old.get(), direction, first, rows)
        if self.cell == "lstm":
            self.initialise("c0", places["c"], direction, first, rows)
        with k.loop(0, n["steps"]) as step:
            for number, gates in enumerate(PASSES[self.cell]):

                def combine(row: Val, panel: Val, sums: Val, number: int = number) -> None:
                    states = (old.get(), new.get(), places)
                    self.combine(
                        number, sums, row, panel, states, direction, first, step, reversed_
                    )

                states = old.get() if number == 0 else places["rh"]
                self.run_pass(number, gates, states, rest, direction, rows, combine)
            swapped = old.get()
            old.set(new.get())
            new.set(swapped)
        self.finish("yh", old.get(), direction, first, rows)
        if self.cell == "lstm":
            self.finish("yc", places["c"], direction, first, rows)

    def length_of(self, row: Val) -> Val:
        """Steps of a row's sequence."""
        return self.k.convert(self.k.load(self.p["lengths"] + row * 4, I32), I64)

    def initialise(self, name: str, state: Val, direction: Val, first: Val, rows: Val) -> None:
        """Fill a state from the initial one, or with zeros; padding columns are zero."""
        k, n, lanes = self.k, self.n, self.lanes
        given = name in self.options["initial"]
        with k.loop(0, rows) as row:
            target = state + row * self.pitch
            lanes.sweep(n["padded"], 1, lambda part: part.store(lanes.fill(0), target))
            if given:
                source = self.row_of(name, direction, first + row)
                lanes.sweep(n["hidden"], 1, lambda part: part.store(part.load(source), target))

    def finish(self, name: str, state: Val, direction: Val, first: Val, rows: Val) -> None:
        """Write a last state where it is an output."""
        if name not in self.options["outputs"]:
            return
        with self.k.loop(0, rows) as row:
            source = state + row * self.pitch
            target = self.row_of(name, direction, first + row)
            self.lanes.sweep(
                self.n["hidden"], 1, lambda part: part.store(part.load(source), target)
            )

    def row_of(self, name: str, direction: Val, row: Val) -> Val:
        """First element of a row of a tensor with a stride per direction and row."""
        return self.p[name] + (direction * self.n[f"{name}_d"] + row * self.n[f"{name}_b"]) * 4

    def run_pass(
        self,
        number: int,
        gates: int,
        states: Val,
        sums: Val,
        direction: Val,
        rows: Val,
        combine: Combine,
    ) -> None:
        """Sums of one pass for all panels and rows, each handed to `combine`.

        A single row takes several panels at a time, several rows fewer in tiles of nearly equal
        height; panels left over for several rows go row by row.
        """
        k, lanes, tiles = self.k, self.lanes, self.tiles[gates]
        panel_bytes = self.pitch * (gates * lanes.count)
        weights = self.p["r" if number == 0 else "r2"] + direction * self.panels * panel_bytes
        singles = [tile.panels for tile in tiles if tile.rows == 1]
        tallest = max(tiles, key=lambda tile: tile.rows)
        first_panel = k.variable(0, I64)
        with k.while_(lambda: first_panel.get() < self.panels):
            left = self.panels - first_panel.get()
            single = rows.equals(1)
            narrow = left < tallest.panels
            most = k.select(single | narrow, k.const(1), tallest.rows)
            width = k.select(single | narrow, k.const(1), tallest.panels)
            for panels in singles[1:]:
                width = k.select(single & (left >= panels), panels, width)
            source = weights + first_panel.get() * panel_bytes
            first_row = k.variable(0, I64)
            bands = k.variable((rows + most - 1) // most)
            with k.while_(lambda: first_row.get() < rows):
                height = (rows - first_row.get() + bands.get() - 1) // bands.get()
                state = states + first_row.get() * self.pitch
                for tile, function in tiles.items():
                    with k.when(height.equals(tile.rows) & width.equals(tile.panels)):
                        arguments = [state, self.pitch, source, panel_bytes, sums]
                        k.call(function, [*arguments, self.n["padded"]])
                with k.loop(0, height) as row, k.loop(0, width) as panel:
                    place = sums + (row * width + panel) * (gates * lanes.bytes)
                    combine(first_row.get() + row, first_panel.get() + panel, place)
                first_row.add(height)
                bands.add(-1)
            first_panel.add(width)

    def combine(
        self,
        number: int,
        sums: Val,
        row: Val,
        panel: Val,
        states: tuple[Val, Val, dict[str, Val]],
        direction: Val,
        first: Val,
        step: Val,
        reversed_: Val,
    ) -> None:
        """Gates and new state of one row in one panel."""
        k, n, lanes = self.k, self.n, self.lanes
        old, new, places = states
        gates = GATES[self.cell]
        column = panel * lanes.bytes
        place = row * self.pitch + column
        last = n["steps"]
        active: Val | None = None
        if self.options["lengths"]:
            last = self.length_of(first + row)
            active = step < last
        time = k.select(reversed_, last - 1 - step, step)
        if active is not None:
            time = k.select(active, time, step)
        inputs = self.p["x"] + (time * n["x_t"] + (first + row) * n["x_b"]) * 4
        inputs = inputs + (direction * self.panels + panel) * (gates * lanes.bytes)
        x = [k.load(inputs + g * lanes.bytes, lanes.kind) for g in range(gates)]
        total = [
            k.load(sums + g * lanes.bytes, lanes.kind) for g in range(PASSES[self.cell][number])
        ]
        before = k.load(old + place, lanes.kind)
        if self.cell == "gru" and number == 0:
            k.store(self.act(0, x[0] + total[0]), places["z"] + place)
            k.store(self.act(0, x[1] + total[1]) * before, places["rh"] + place)
            return
        if self.cell == "lstm":
            memory = places["c"] + place
            cell = k.load(memory, lanes.kind)
            after, cell_after = self.lstm(x, total, cell, direction, column)
            k.store(cell_after if active is None else k.select(active, cell_after, cell), memory)
        elif self.cell == "rnn":
            after = self.act(0, x[0] + total[0])
        else:
            if self.cell == "gru":
                update = k.load(places["z"] + place, lanes.kind)
                hidden = self.act(1, x[2] + total[0])
            else:
                update = self.act(0, x[0] + total[0])
                bias = k.load(self.p["rb"] + direction * self.pitch + column, lanes.kind)
                reset = self.act(0, x[1] + total[1])
                hidden = self.act(1, k.fma(reset, total[2] + bias, x[2]))
            after = k.fma(update, before - hidden, hidden)
        shown = after
        if active is not None:
            after, shown = k.select(active, after, before), k.select(active, after, 0.0)
        k.store(after, new + place)
        if "y" in self.options["outputs"]:
            row_start = self.row_of("y", direction, first + row) + time * n["y_t"] * 4
            room = n["hidden"] - panel * lanes.count
            with k.branch(room >= lanes.count) as (whole, partly):
                with whole:
                    k.store(shown, row_start + column)
                with partly:
                    k.masked_store(shown, row_start + column, k.mask(room, lanes.count))

    def lstm(
        self, x: list[Val], total: list[Val], cell: Val, direction: Val, column: Val
    ) -> tuple[Val, Val]:
        """New state and cell of an LSTM."""
        k = self.k
        i, o, f, c = (a + b for a, b in zip(x, total, strict=True))
        peepholes: list[Val] = []
        if self.options["peephole"]:
            start = self.p["peephole"] + direction * (self.pitch * 3) + column
            peepholes = [k.load(start + self.pitch * gate, self.lanes.kind) for gate in range(3)]
            i, f = k.fma(peepholes[0], cell, i), k.fma(peepholes[2], cell, f)
        i = self.act(0, i)
        f = 1.0 - i if self.options["input_forget"] else self.act(0, f)
        after = k.fma(f, cell, i * self.act(1, c))
        if peepholes:
            o = k.fma(peepholes[1], after, o)
        return self.act(0, o) * self.act(2, after, clip=False), after

    def act(self, number: int, value: Val, clip: bool = True) -> Val:
        """Activation number `number` of the cell, of a value held to the clip range."""
        if clip and self.clip is not None:
            value = self.lanes.smaller(self.clip, self.lanes.larger(-self.clip, value))
        name, alpha, beta = self.functions[number]
        return activation(self.k, name, value, alpha, beta)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Recurrent(symbol, target, options).build()


register(Family("recurrent", "LSTM, GRU and RNN layers over whole sequences", _layout, _build))

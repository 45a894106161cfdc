"""Recurrent layers over whole sequences: the kernel family ``recurrent``.

The projections of all inputs, with their biases, are computed beforehand by one dot call, and
``recurrent_start`` writes the initial states (`engine.kernels.recurrent_start`). ``recurrent`` then
runs the steps. Its work items are members of teams (`engine.kernels.recurrent_team`): a team
carries a block of rows (sequences) of one direction from the first step to the last, and its
members share the panels of hidden columns.
Per step and panel a register tile multiplies the rows' states with the recurrent weights of all
gates of these columns, then the gates are combined while the sums are in L1.

Hidden columns are padded to whole vectors, ``padded`` in all. Formats, ``[...]`` row-major:

- recurrent weights: [directions, panels, parts, padded, gates of a part, lanes]: row k of a panel
  holds, gate by gate, what state k adds to the panel's columns; where gates are many, the panel has
  several parts (`engine.kernels.recurrent_tiles.together`);
- projections: per step and row [directions, panels, gates, lanes];
- states: [planes, directions, rows] rows of ``pitch`` bytes; the first two planes hold the state
  of even and odd steps, then follow an LSTM's cell, or a GRU's update gate and gated state.

Every sum over the state runs in the order of k in one accumulator, so the result does not depend
on how rows are blocked or panels shared. Gates are in ONNX order: LSTM input, output, forget, cell;
GRU update, reset, hidden. A GRU that applies the reset gate before the product (cell ``gru``) needs
its hidden gate in a second pass over its own weights ``r2``; ``gru_linear`` applies it afterwards.

Option ``ragged``: the rows are sequences of different lengths, longest first, whose steps lie
behind each other. ``starts`` holds the step, over all sequences, with which each begins, ``ends``
its number of steps, both as int64. A step computes the rows that have it, so nothing is padded.

Every other step walks the panels backwards: what a cache holds of the weights is what was read
last, and a cyclic walk over more than fits would always find it gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import llvmlite.ir as ir

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I32, I64, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.atomics import Walker
from engine.kernels.recurrent_cells import CELL, GATED, GATES, PLACE, UPDATE, Cell
from engine.kernels.recurrent_team import phases
from engine.kernels.recurrent_tiles import (
    FAR,
    LINES,
    PASSES,
    band_rows,
    chunk_steps,
    emit_band,
    emit_single,
    prefetch,
    single_tiles,
    together,
)
from engine.kernels.strips import Lanes
from engine.kernels.wide import Wide


def _layout(options: Options) -> Layout:
    tensors = ["x", "r", "state", "shared"]
    ints = ["steps", "rows", "row_block", "row_blocks", "team", "share", "team_bytes", "reverse"]
    ints.extend((*PLACE.split(), "x_t", "x_b"))
    cell = options["cell"]
    if cell == "gru":
        tensors.append("r2")
    if cell == "gru_linear":
        tensors.append("rb")
    if options["peephole"]:
        tensors.append("peephole")
    if options["lengths"]:
        tensors.append("lengths")
    if options["ragged"]:
        tensors.extend(("starts", "ends"))
    for name in options["outputs"]:
        tensors.append(name)
        ints.extend((f"{name}_d", f"{name}_b"))
        if name == "y":
            ints.append("y_t")
    return Layout.of(" ".join(tensors), " ".join(ints), "clip" if options["clip"] else "")


@dataclass(frozen=True)
class _Group:
    """What a team works on: a direction, and `rows` rows from row `first` on."""

    direction: Val
    first: Val
    rows: Val
    reversed_: Val


@dataclass(frozen=True)
class _Spot:
    """A row of the group and a panel: what a vector of gates belongs to."""

    row: Val
    panel: Val


@dataclass(frozen=True)
class _Step:
    """One step: its number, and where the states before and after it lie."""

    number: Val
    old: Val
    new: Val


@dataclass(frozen=True)
class _Next:
    """What is read after a panel: the panel, the number of its step, and whether to fetch it."""

    panel: Val
    step: Val
    wanted: Val


class _Recurrent:
    """Generator of one recurrent kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = Walker(symbol, target, _layout(options))
        self.options = options
        self.cell: str = options["cell"]
        self.lanes = Lanes(k, "float32")
        self.singles = {
            gates: {n: emit_single(k, self.lanes, gates, n) for n in single_tiles(target, gates)}
            for gates in PASSES[self.cell]
        }
        self.bands = {
            gates: {
                rows: emit_band(k, self.lanes, gates, rows)
                for rows in range(2, band_rows(target, gates) + 1)
            }
            for gates in PASSES[self.cell]
        }
        fields = k.layout.fields
        self.p = {n: k.tensor(n) for n, f in fields.items() if f.kind == "tensor"}
        self.n = {n: k.int(n) for n, f in fields.items() if f.kind == "int"}
        self.wide = Wide(k, self.lanes)
        self.math = Cell(k, self.lanes, options)
        self.pitch = self.n["pitch"]
        self.panels = self.n["padded"] // self.lanes.count
        self.sums = k.scratch()

    def build(self) -> str:
        """IR text of the kernel."""
        k, n = self.k, self.n
        with k.loop(k.begin, k.end) as item:
            member, number = item % n["team"], item // n["team"]
            direction = number // n["row_blocks"]
            first = number % n["row_blocks"] * n["row_block"]
            rows = k.minimum(n["rows"] - first, n["row_block"])
            reversed_ = (direction + n["reverse"]).equals(1)
            group = _Group(direction, first, rows, reversed_)
            self.sequence(group, k.offset(self.p["shared"], number * n["team_bytes"]), member)
        k.ret()
        return str(k.module)

    def sequence(self, group: _Group, shared: Val, member: Val) -> None:
        """All steps of a block of rows, as one member of its team."""
        k, n = self.k, self.n
        if self.options["lengths"]:
            with k.loop(0, group.rows) as row:
                length = self.length_of(group.first + row)
                with k.when((length < 0) | (length > n["steps"])):
                    k.ret(Status.INDEX_OUT_OF_RANGE)
        passes = PASSES[self.cell]
        # The first row of a group is its longest.
        steps = self.length_of(group.first) if self.options["ragged"] else n["steps"]

        def compute(block: Val, phase: Val) -> None:
            number = phase // len(passes)
            odd = (number & 1).equals(1)
            even_state, odd_state = self.plane(0, group), self.plane(1, group)
            old = k.select(odd, odd_state, even_state)
            new = k.select(odd, even_state, odd_state)
            step = _Step(number, old, new)
            low = block * n["share"]
            high = k.minimum(low + n["share"], self.panels)
            running = self.running(group, number)
            for index in range(len(passes)):
                if len(passes) == 1:
                    self.run_pass(index, running, step, low, high)
                else:
                    with k.when((phase % len(passes)).equals(index)):
                        self.run_pass(index, running, step, low, high)

        phases(k, shared, n["team"], member, steps * len(passes), compute)
        first = member * n["share"]
        columns = k.minimum(first + n["share"], self.panels) - first
        planes = self.plane(0, group), self.plane(1, group)
        self.finish("yh", planes, group, first, columns)
        if self.cell == "lstm":
            self.finish("yc", (self.plane(CELL, group),), group, first, columns)

    def running(self, group: _Group, step: Val) -> _Group:
        """The rows of a group that have a step: all, or the first ones of ragged rows."""
        if not self.options["ragged"]:
            return group
        k = self.k
        rows = k.variable(group.rows)

        def ended() -> Val:
            # Nobody asks for a step that the first row does not have.
            return (rows.get() > 1) & (self.length_of(group.first + rows.get() - 1) <= step)

        with k.while_(ended):
            rows.add(-1)
        return replace(group, rows=rows.get())

    def plane(self, number: int, group: _Group) -> Val:
        """First row of the group in a plane of states."""
        row = group.direction * self.n["rows"] + group.first
        return self.p["state"] + self.n["plane"] * number + row * self.pitch

    def length_of(self, row: Val) -> Val:
        """Steps of a row's sequence."""
        if self.options["ragged"]:
            return self.k.load(self.p["ends"] + row * 8, I64)
        return self.k.convert(self.k.load(self.p["lengths"] + row * 4, I32), I64)

    def finish(
        self, name: str, planes: Sequence[Val], group: _Group, panel: Val, panels: Val
    ) -> None:
        """Write some panels of a last state where it is an output.

        Of two planes it lies in the first after an even number of steps, else in the second.
        """
        if name not in self.options["outputs"]:
            return
        start = panel * self.lanes.count
        columns = self.k.minimum(self.n["hidden"] - start, panels * self.lanes.count)
        with self.k.loop(0, group.rows) as row:
            steps = self.n["steps"]
            if self.options["ragged"]:
                steps = self.length_of(group.first + row)
            state = self.k.select((steps & 1).equals(1), planes[-1], planes[0])
            source = state + row * self.pitch + start * 4
            target = self.row_of(name, group.direction, group.first + row) + start * 4
            self.lanes.sweep(columns, 1, lambda part: part.store(part.load(source), target))

    def row_of(self, name: str, direction: Val, row: Val) -> Val:
        """First element of a row of a tensor with a stride per direction and row."""
        if name == "y" and self.options["ragged"]:
            return (
                self.p["y"] + (direction * self.n["y_d"] + self.start_of(row) * self.n["y_t"]) * 4
            )
        return self.p[name] + (direction * self.n[f"{name}_d"] + row * self.n[f"{name}_b"]) * 4

    def run_pass(self, number: int, group: _Group, step: _Step, low: Val, high: Val) -> None:
        """One pass over the panels from `low` to `high`, for all rows of the group.

        A single row takes several panels at a time, several rows one.
        """
        k, n = self.k, self.n
        gates = PASSES[self.cell][number]
        panel_bytes = n["padded"] * (4 * gates * self.lanes.count)
        weights = self.p["r" if number == 0 else "r2"] + group.direction * self.panels * panel_bytes
        states = step.old if number == 0 else self.plane(GATED, group)
        single = group.rows.equals(1)
        # Where rows end at different steps, what they read next is not worth finding out.
        ahead = number == 0 and not self.options["lengths"]
        backwards = (step.number & 1).equals(1)
        taken = k.variable(0, I64)
        count = high - low
        with k.while_(lambda: taken.get() < count):
            left = count - taken.get()
            width = k.variable(k.const(1))
            for panels in self.singles[gates]:
                width.set(k.select(single & (left >= panels), panels, width.get()))
            panel = k.select(backwards, high - taken.get() - width.get(), low + taken.get())
            source = weights + panel * panel_bytes
            with k.branch(single) as (alone, several):
                with alone:
                    if ahead:
                        self.expect(group, k.const(0), panel, step.number, width.get())
                    for panels, function in self.singles[gates].items():
                        with k.when(width.get().equals(panels)):
                            arguments = [states, source, panel_bytes, self.sums, n["padded"]]
                            k.call(function, arguments)
                with several:
                    self.multiply(gates, states, source, group.rows)
            following = None
            if ahead:
                # The next step begins where this one ends.
                last = taken.get() + width.get() >= count
                beside = k.select(backwards, panel - 1, panel + 1)
                number_after = k.select(last, step.number + 1, step.number)
                following = _Next(k.select(last, panel, beside), number_after, group.rows > 1)
            self.combine_all(number, width.get(), panel, group, step, following)
            taken.add(width.get())

    def multiply(self, gates: int, states: Val, panel: Val, rows: Val) -> None:
        """Sums of several rows in one panel, in bands of nearly equal height.

        Where there is more than one band, weights are taken in chunks that stay in L1 until the
        last band has used them; meanwhile the next chunk is fetched into L2.
        """
        k, n = self.k, self.n
        functions = self.bands[gates]
        most, width = max(functions), together(gates)
        bands = (rows + most - 1) // most
        low, rest = rows // bands, rows % bands
        length = k.select(bands.equals(1), n["padded"], chunk_steps(k.target, gates))
        step_bytes, row_bytes = width * self.lanes.bytes, gates * self.lanes.bytes
        with k.loop(0, gates // width) as part, k.loop(0, n["padded"], length) as start:
            steps = k.minimum(n["padded"] - start, length)
            resume = k.select(start > 0, k.const(1), 0)
            source = panel + (part * n["padded"] + start) * step_bytes
            later = k.variable(source + k.select(bands.equals(1), FAR, steps * step_bytes))
            row = k.variable(k.const(0))
            with k.loop(0, bands) as band:
                height = k.select(band < rest, low + 1, low)
                state = states + row.get() * self.pitch + start * 4
                place = self.sums + row.get() * row_bytes + part * step_bytes
                arguments = [state, self.pitch, source, place, steps, resume, later.get()]
                for rows_, function in functions.items():
                    with k.when(height.equals(rows_)):
                        k.call(function, arguments)
                row.add(height)
                later.add(steps * (16 * LINES))

    def time_of(self, group: _Group, step: Val, last: Val) -> Val:
        """Place in the sequence of a step of a row that has `last` steps."""
        return self.k.select(group.reversed_, last - 1 - step, step)

    def inputs_of(self, group: _Group, row: Val, panel: Val, time: Val) -> Val:
        """Projections of a row's gates in a panel."""
        gates = GATES[self.cell]
        if self.options["ragged"]:
            inputs = self.p["x"] + (self.start_of(group.first + row) + time) * self.n["x_t"] * 4
        else:
            inputs = self.p["x"] + (time * self.n["x_t"] + (group.first + row) * self.n["x_b"]) * 4
        return inputs + (group.direction * self.panels + panel) * (gates * self.lanes.bytes)

    def start_of(self, row: Val) -> Val:
        """The step, over all sequences, with which a ragged row begins."""
        return self.k.load(self.p["starts"] + row * 8, I64)

    def expect(self, group: _Group, row: Val, panel: Val, step: Val, panels: Val | int = 1) -> None:
        """Prefetch a row's projections in some panels, for a step."""
        k = self.k
        steps = self.n["steps"]
        if self.options["ragged"]:
            steps = self.length_of(group.first + row)
        inputs = self.inputs_of(group, row, panel, self.time_of(group, step, steps))
        row_bytes = panels * (GATES[self.cell] * self.lanes.bytes)
        if isinstance(row_bytes, int):
            for shift in range(0, row_bytes, 64):
                prefetch(k, inputs + shift)
        else:
            with k.loop(0, row_bytes, 64) as line:
                prefetch(k, inputs + line)

    def combine_all(
        self,
        number: int,
        width: Val,
        panel: Val,
        group: _Group,
        step: _Step,
        following: _Next | None,
    ) -> None:
        """Gates of all rows in `width` panels, two vectors at a time.

        The functions of a gate are long chains of instructions that wait for each other; two
        chains side by side keep the core busy. Meanwhile the rows' projections in the `following`
        panel are fetched: a pair of rows at a time, as many lines at once would stop the tile.
        """
        k = self.k
        sums_bytes = PASSES[self.cell][number] * self.lanes.bytes
        # Widths are powers of two.
        zero = Val(k, ir.Constant(ir.IntType(1), 0))
        shift = k.intrinsic("llvm.cttz.i64", I64, [width, zero])
        count = group.rows << shift

        def spot(index: Val) -> _Spot:
            return _Spot(index >> shift, panel + (index & (width - 1)))

        pairs = count & -2
        with k.loop(0, pairs, 2) as index:
            spots = [spot(index), spot(index + 1)]
            if following is not None:
                with k.when(following.wanted):
                    for row in (index, index + 1):
                        self.expect(group, row, following.panel, following.step)
            self.combine(number, self.sums + index * sums_bytes, spots, group, step)
        with k.when(pairs < count):
            self.combine(number, self.sums + pairs * sums_bytes, [spot(pairs)], group, step)

    def combine(
        self, number: int, sums: Val, spots: Sequence[_Spot], group: _Group, step: _Step
    ) -> None:
        """Gates and new states of one or two rows and panels, whose sums lie side by side."""
        k, n, lanes = self.k, self.n, self.lanes
        direction = group.direction
        gates, summed = GATES[self.cell], PASSES[self.cell][number]
        columns = [spot.panel * lanes.bytes for spot in spots]
        places = [s.row * self.pitch + column for s, column in zip(spots, columns, strict=True)]
        times = [self.time_of(group, step.number, n["steps"]) for _ in spots]
        active: Val | None = None
        if self.options["lengths"]:
            ends = [self.length_of(group.first + spot.row) for spot in spots]
            running = [step.number < end for end in ends]
            times = [
                k.select(runs, self.time_of(group, step.number, end), step.number)
                for runs, end in zip(running, ends, strict=True)
            ]
            active = self.wide.join([k.splat(runs, lanes.count) for runs in running])
        elif self.options["ragged"]:
            ends = [self.length_of(group.first + spot.row) for spot in spots]
            times = [self.time_of(group, step.number, end) for end in ends]
        inputs = [
            self.inputs_of(group, spot.row, spot.panel, time)
            for spot, time in zip(spots, times, strict=True)
        ]
        x = [self.wide.load(inputs, g * lanes.bytes) for g in range(gates)]
        starts = [sums + i * (summed * lanes.bytes) for i in range(len(spots))]
        total = [self.wide.load(starts, g * lanes.bytes) for g in range(summed)]

        def of(plane: Val) -> list[Val]:
            return [plane + place for place in places]

        before = self.wide.load(of(step.old))
        if self.cell == "gru" and number == 0:
            self.wide.store(x[0] + total[0], of(self.plane(UPDATE, group)))
            self.wide.store(
                self.math.act(0, x[1] + total[1]) * before, of(self.plane(GATED, group))
            )
            return
        if self.cell == "lstm":
            memory = of(self.plane(CELL, group))
            cell = self.wide.load(memory)
            sums_ = [a + b for a, b in zip(x, total, strict=True)]
            after, cell_after = self.math.lstm(sums_, cell, self.peepholes(direction, columns))
            self.wide.store(
                cell_after if active is None else k.select(active, cell_after, cell), memory
            )
        elif self.cell == "rnn":
            after = self.math.act(0, x[0] + total[0])
        else:
            if self.cell == "gru":
                update = self.wide.load(of(self.plane(UPDATE, group)))
                hidden = x[2] + total[0]
            else:
                start = self.p["rb"] + direction * (n["padded"] * 4)
                bias = self.wide.load([start + column for column in columns])
                reset = self.math.act(0, x[1] + total[1])
                hidden = k.fma(reset, total[2] + bias, x[2])
                update = x[0] + total[0]
            after = self.math.gru(update, hidden, before)
        shown = after
        if active is not None:
            after, shown = k.select(active, after, before), k.select(active, after, 0.0)
        self.wide.store(after, of(step.new))
        if "y" in self.options["outputs"]:
            for part, spot in enumerate(spots):
                row_start = self.row_of("y", direction, group.first + spot.row)
                target = row_start + times[part] * n["y_t"] * 4 + columns[part]
                room = n["hidden"] - spot.panel * lanes.count
                self.wide.store_part(shown, part, target, room)

    def peepholes(self, direction: Val, columns: Sequence[Val]) -> list[Val]:
        """Peephole weights of each gate in some columns, or none."""
        if not self.options["peephole"]:
            return []
        wide = self.n["padded"] * 4
        start = self.p["peephole"] + direction * (wide * 3)
        rows = [start + column for column in columns]
        return [self.wide.load([row + wide * gate for row in rows]) for gate in range(3)]


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Recurrent(symbol, target, options).build()


register(Family("recurrent", "LSTM, GRU and RNN layers over whole sequences", _layout, _build))

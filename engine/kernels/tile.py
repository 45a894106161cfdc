"""The register tile of the dot kernels: rows of A times one packed panel of B.

Rows lie a fixed number of bytes apart, so that twelve of them are reached from two pointers and
three strides: general registers do not run out before vector registers do. Each step of K loads the
panel's vectors once and broadcasts one element per row.

Where the target names its vector registers, the loop is written in assembly: LLVM's scheduler moves
the broadcasts of later steps up, whose values then do not fit the registers, and rewrites the
addresses into chains of additions that compete with the multiply-adds. On a Xeon of the Cascade
Lake generation with a peak of 152 GFLOP/s a core, 1024x768x768 runs at 140 so and at 116 as plain
IR, which serves every other target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from engine.codegen.builder import F32, I64, PTR, KernelBuilder, Val, Variable
from engine.kernels.pairs import WRITTEN, add_product

UNROLL: Final = 4
"""Steps of K per iteration of the inner loop."""

_GROUP: Final = 6
"""Rows reached from one pointer."""

_STEPS: Final = {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (1, 4), 5: (5, 1)}
"""Row of a group: multiple of the stride that a register holds, and scale of the address."""

Sums = list[list[Variable]]


@dataclass(frozen=True)
class Written:
    """Rows that a tile will write, to be fetched for writing while its sums are computed.

    `place` is the first row not yet asked for, `stride` the bytes between rows, `last` the last
    row, where `place` stays; `size` are the bytes of a row.
    """

    place: Variable
    stride: Val
    last: Val
    size: int


def zeros(k: KernelBuilder, height: int, vectors: int) -> Sums:
    """Accumulators of a tile, all zero."""
    zero = k.const(0, k.vector(F32, k.target.lanes()))
    return [[k.variable(zero) for _ in range(vectors)] for _ in range(height)]


def multiply(
    k: KernelBuilder,
    first: Val,
    stride: Val,
    panel: Variable,
    length: Val,
    sums: Sums,
    ahead: Variable,
    distance: Val,
    lines: int = 1,
    written: Written | None = None,
    pairs: str = "",
) -> None:
    """``sums += rows[:, :length] @ panel[:length]``; `panel` moves behind what was read.

    Row 0 starts at `first`, the others follow `stride` bytes apart. Every step fetches the panel
    `distance` bytes further on into the first-level cache, every `UNROLL` steps `lines` cache lines
    from `ahead` into the second; `ahead` moves behind them. Of `written` they fetch one row: stores
    that miss the first-level cache hold up the next tile, and all rows asked for at once the first
    steps of this one. 1600x512x128 takes 4 to 8 % less so on a Xeon of the Cascade Lake generation.

    With `pairs`, a form of `engine.kernels.pairs`, rows and panel hold pairs of bf16 numbers, and
    `length` counts these.
    """
    if k.target.vector_register and pairs != WRITTEN:
        operation = "vdpbf16ps" if pairs else "vfmadd231ps"
        _assembly(k, first, stride, panel, length, sums, ahead, distance, lines, written, operation)
    else:
        _plain(k, first, stride, panel, length, sums, pairs=bool(pairs))


def choose(k: KernelBuilder, ladder: Sequence[int], left: Val) -> Val:
    """Index of the tallest height of the falling `ladder`, or of the lowest that covers `left`."""
    index = k.const(len(ladder) - 1)
    for i in reversed(range(len(ladder) - 1)):
        index = k.select(left > ladder[i + 1], k.const(i), index)
    return index


def _plain(
    k: KernelBuilder,
    first: Val,
    stride: Val,
    panel: Variable,
    length: Val,
    sums: Sums,
    pairs: bool,
) -> None:
    lanes = k.target.lanes()
    width = len(sums[0]) * lanes * 4
    lines = [k.offset(first, stride * row) for row in range(len(sums))]
    with k.loop(0, length) as step:
        columns = [
            k.load(k.offset(panel.get(), v * lanes * 4), sums[0][0].type)
            for v in range(len(sums[0]))
        ]
        for line, row in zip(lines, sums, strict=True):
            value = k.splat(k.load(k.offset(line, step * 4), F32), lanes)
            for total, column in zip(row, columns, strict=True):
                if pairs:
                    total.set(add_product(k, value, column, total.get()))
                else:
                    total.set(k.fma(value, column, total.get()))
        panel.add(width)


def _assembly(
    k: KernelBuilder,
    first: Val,
    stride: Val,
    panel: Variable,
    length: Val,
    sums: Sums,
    ahead: Variable,
    distance: Val,
    lines: int,
    written: Written | None,
    operation: str,
) -> None:
    height, vectors = len(sums), len(sums[0])
    accumulators = [total for row in sums for total in row]
    vector = accumulators[0].type
    groups = -(-height // _GROUP)
    temporaries = min(4, k.target.registers - len(accumulators) - vectors)
    multiples = sorted({_STEPS[r % _GROUP][0] for r in range(height) if r % _GROUP})
    # Operands: sums, pointers of the groups, panel, ahead, steps left | panel's vectors and
    # broadcasts | (tied inputs) | strides, distance.
    moving = [
        *(k.offset(first, stride * (g * _GROUP)) for g in range(groups)),
        panel.get(),
        ahead.get(),
        length,
    ]
    if written is not None:
        moving.append(written.place.get())
    at, scratch = len(accumulators), vectors + temporaries
    fixed = 2 * (at + len(moving)) + scratch
    text = _Text(
        sums=[[f"${r * vectors + v}" for v in range(vectors)] for r in range(height)],
        groups=[f"${at + g}" for g in range(groups)],
        panel=f"${at + groups}",
        ahead=f"${at + groups + 1}",
        left=f"${at + groups + 2}",
        columns=[f"${at + len(moving) + v}" for v in range(vectors)],
        values=[f"${at + len(moving) + vectors + i}" for i in range(temporaries)],
        strides={m: f"${fixed + i}" for i, m in enumerate(multiples)},
        distance=f"${fixed + len(multiples)}",
        bytes_per_vector=k.target.vector_bytes,
        lines=lines,
        written=[f"${at + groups + 3}", *(f"${fixed + len(multiples) + 1 + i}" for i in range(2))],
        written_bytes=0 if written is None else written.size,
        operation=operation,
    )
    kind = "v" if k.target.masks else "x"
    constraints = [
        *([f"=&{kind}"] * at),
        *(["=&r"] * len(moving)),
        *([f"=&{kind}"] * scratch),
        *(str(i) for i in range(at + len(moving))),
        *(["r"] * (len(multiples) + 1 + (0 if written is None else 2))),
        "~{memory}",
        "~{cc}",
    ]
    arguments = [
        *(total.get() for total in accumulators),
        *moving,
        *(stride * m for m in multiples),
        distance,
    ]
    if written is not None:
        arguments += [written.stride, written.last]
    results = [*([vector] * at), *(value.type for value in moving), *([vector] * scratch)]
    found = k.assembly("\n".join(text.loop()), ",".join(constraints), results, arguments)
    for total, value in zip(accumulators, found, strict=False):
        total.set(value)
    panel.set(found[at + groups])
    ahead.set(found[at + groups + 1])
    if written is not None:
        written.place.set(found[at + groups + 3])


class _Text:
    """Assembly (AT&T) of the loop over K, on operands by name."""

    def __init__(
        self,
        sums: list[list[str]],
        groups: list[str],
        panel: str,
        ahead: str,
        left: str,
        columns: list[str],
        values: list[str],
        strides: dict[int, str],
        distance: str,
        bytes_per_vector: int,
        lines: int,
        written: list[str],
        written_bytes: int,
        operation: str,
    ) -> None:
        self.sums = sums
        self.groups = groups
        self.panel = panel
        self.ahead = ahead
        self.left = left
        self.columns = columns
        self.values = values
        self.strides = strides
        self.distance = distance
        self.vector = bytes_per_vector
        self.lines = lines
        self.written = written
        self.written_bytes = written_bytes
        self.operation = operation

    def loop(self) -> Iterator[str]:
        """`UNROLL` steps at a time, then one at a time."""
        yield f"subq $${UNROLL}, {self.left}"
        yield "jl 2f"
        yield ".p2align 5"
        yield "1:"
        yield from self.steps(UNROLL)
        for line in range(self.lines):
            yield f"prefetcht1 {line * 64}({self.ahead})"
        yield f"addq $${self.lines * 64}, {self.ahead}"
        yield from self.expect()
        yield f"subq $${UNROLL}, {self.left}"
        yield "jge 1b"
        yield "2:"
        yield f"addq $${UNROLL}, {self.left}"
        yield "je 4f"
        yield "3:"
        yield from self.steps(1)
        yield f"decq {self.left}"
        yield "jne 3b"
        yield "4:"

    def steps(self, count: int) -> Iterator[str]:
        """Multiply-adds of `count` steps, fetches between them; the pointers move at the end."""
        for step in range(count):
            fetches = []
            for v, column in enumerate(self.columns):
                shift = (step * len(self.columns) + v) * self.vector
                yield f"vmovups {shift}({self.panel}), {column}"
                if shift % 64 == 0:
                    fetches.append(f"prefetcht0 {shift}({self.panel},{self.distance})")
            every = max(1, len(self.sums) // max(1, len(fetches)))
            for row, totals in enumerate(self.sums):
                value = self.values[row % len(self.values)]
                yield f"vbroadcastss {self.place(row, step * 4)}, {value}"
                for total, column in zip(totals, self.columns, strict=True):
                    yield f"{self.operation} {column}, {value}, {total}"
                if row % every == 0 and fetches:
                    yield fetches.pop(0)
            yield from fetches
        for pointer in self.groups:
            yield f"addq $${4 * count}, {pointer}"
        yield f"addq $${count * len(self.columns) * self.vector}, {self.panel}"

    def expect(self) -> Iterator[str]:
        """Fetch the next row that will be written, or the last one again."""
        if not self.written_bytes:
            return
        place, stride, last = self.written
        for shift in range(0, self.written_bytes, 64):
            yield f"prefetchw {shift}({place})"
        yield f"addq {stride}, {place}"
        yield f"cmpq {last}, {place}"
        yield f"cmovaq {last}, {place}"

    def place(self, row: int, shift: int) -> str:
        """Address of an element of a row."""
        pointer = self.groups[row // _GROUP]
        if row % _GROUP == 0:
            return f"{shift}({pointer})"
        multiple, scale = _STEPS[row % _GROUP]
        return f"{shift}({pointer},{self.strides[multiple]},{scale})"


__all__ = ["I64", "PTR", "UNROLL", "Sums", "Written", "choose", "multiply", "zeros"]

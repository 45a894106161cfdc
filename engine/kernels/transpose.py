"""Copies between windows with unit stride along different axes: NCHW to NHWC and the like.

Square tiles pass through registers: elements are interleaved inside 128-bit lanes, then the lanes
are exchanged, by repeated perfect shuffles (H. S. Stone, Parallel Processing with the Perfect
Shuffle, 1971): log2 of the side steps in all. The last tile of a row or column overlaps the one
before and writes the same bytes again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import integer, move

CHUNK_ELEMENTS: Final = 256
"""Work items are split at this many elements along the target's unit-stride axis."""


def tile_side(target: Target, itemsize: int) -> int:
    """Side of the square tiles of ``copy_tiles``: a vector's lanes, at most 16."""
    return min(16, target.lanes(itemsize))


def _tiles_layout(options: Options) -> Layout:
    rank = options["rank"]
    names = [axis_names(prefix, rank) for prefix in ("d", "x", "y")]
    return Layout.of("x y", "across along x_along y_across chunks tiles " + " ".join(names))


def _build_tiles(symbol: str, target: Target, options: Options) -> str:
    """Unit stride is `across` in the source and `along` in the target."""
    rank, itemsize = options["rank"], options["itemsize"]
    side = tile_side(target, itemsize)
    k = KernelBuilder(symbol, target, _tiles_layout(options))
    dims = k.ints(axis_names("d", rank))
    xs, ys = k.ints(axis_names("x", rank)), k.ints(axis_names("y", rank))
    x, y = k.tensor("x"), k.tensor("y")
    across, along, x_along, y_across, chunks, tiles = k.ints(
        "across along x_along y_across chunks tiles"
    )
    kind = integer(itemsize)
    zero = k.const(0)
    whole = (across >= side) & (along >= side)

    with segments(k, [*dims, chunks, tiles], [[*xs, zero, zero], [*ys, zero, zero]]) as segment:
        source, to = x + segment.offsets[0], y + segment.offsets[1]
        start = segment.index[-2] * CHUNK_ELEMENTS
        stop = k.minimum(start + CHUNK_ELEMENTS, along)
        first = segment.index[-1]

        def place(
            at_across: Val, at_along: Val, source: Val = source, to: Val = to
        ) -> tuple[Val, Val]:
            return (
                source + (at_across * itemsize + at_along * x_along),
                to + (at_across * y_across + at_along * itemsize),
            )

        with k.loop(first, first + segment.count) as tile:
            corner = tile * side
            with k.branch(whole) as (tiled, narrow):
                with tiled:
                    at = k.minimum(corner, across - side)
                    with k.loop(start, stop, side) as j:
                        from_, into = place(at, k.minimum(j, along - side))
                        _tile(k, into, from_, y_across, x_along, kind, side)
                with narrow:
                    limit = k.minimum(corner + side, across)
                    _elements(k, place, kind, (corner, limit), (start, stop))
    k.ret()
    return str(k.module)


def _elements(
    k: KernelBuilder,
    place: Callable[[Val, Val], tuple[Val, Val]],
    kind: Any,
    across: tuple[Val, Val],
    along: tuple[Val, Val],
) -> None:
    """Copy a tile element by element; the inner loop runs over the longer side."""
    with k.branch((across[1] - across[0]) > (along[1] - along[0])) as (then, otherwise):
        with then, k.loop(*along) as j, k.loop(*across) as i:
            source, target = place(i, j)
            move(k, target, source, kind)
        with otherwise, k.loop(*across) as i, k.loop(*along) as j:
            source, target = place(i, j)
            move(k, target, source, kind)


def _tile(
    k: KernelBuilder, target: Val, source: Val, to_step: Val, from_step: Val, kind: Any, side: int
) -> None:
    row = k.vector(kind, side)
    rows = [k.load(source + from_step * i, row, align=1) for i in range(side)]
    for i, value in enumerate(transposed(k, rows)):
        k.store(value, target + to_step * i, align=1)


def transposed(k: KernelBuilder, rows: list[Val]) -> list[Val]:
    """Transpose of a square tile held as one vector per row."""
    side = len(rows)
    lane = min(side, 128 // rows[0].type.element.width)
    groups = [rows[start : start + lane] for start in range(0, side, lane)]
    groups = [_interleave(k, group, 1, lane) for group in groups]
    columns = [_interleave(k, list(same), lane, side) for same in zip(*groups, strict=True)]
    return [columns[j][g] for g in range(side // lane) for j in range(lane)]


def _interleave(k: KernelBuilder, rows: list[Val], unit: int, span: int) -> list[Val]:
    """Transpose blocks of `unit` elements inside spans of `span`, by repeated perfect shuffles."""
    lanes = rows[0].type.count
    half, count = span // 2, len(rows)
    low: list[int] = []
    high: list[int] = []
    for start in range(0, lanes, span):
        for block in range(0, half, unit):
            for part, shift in ((low, 0), (high, half)):
                first = [start + shift + block + i for i in range(unit)]
                part.extend(first)
                part.extend(lane + lanes for lane in first)
    width = count
    while width > 1:
        pairs = [(rows[i], rows[i + count // 2]) for i in range(count // 2)]
        rows = [k.shuffle(a, b, mask) for a, b in pairs for mask in (low, high)]
        width //= 2
    return rows


TILES: Final = register(
    Family("copy_tiles", "transposition through square register tiles", _tiles_layout, _build_tiles)
)

"""Copies between windows with unit stride along different axes: NCHW to NHWC and the like.

Square tiles pass through registers: elements are interleaved inside 128-bit lanes, then the lanes
are exchanged, by repeated perfect shuffles (H. S. Stone, Parallel Processing with the Perfect
Shuffle, 1971): log2 of the side steps in all. The last tile of a row or column overlaps the one
before and writes the same bytes again. Where one axis has two to four elements, too few for a
tile, vectors of the other are interleaved or parted instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import integer, move

CHUNK_ELEMENTS: Final = 256
"""Work items are split at this many elements along the target's unit-stride axis,"""

BLOCK_ELEMENTS: Final = 64
"""and at this many along the source's: whole cache lines of it are read at a time."""

_LINE_BYTES: Final = 64

FEW: Final = (2, 3, 4)
"""Channels of images, and factors of pixel shuffles, that are interleaved whole."""


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
    tile = _Tile(k, kind, side, (across, along, x_along, y_across))
    few = [_Few(tile, count) for count in FEW]

    with segments(k, [*dims, chunks, tiles], [[*xs, zero, zero], [*ys, zero, zero]]) as segment:
        source, to = x + segment.offsets[0], y + segment.offsets[1]
        start = segment.index[-2] * CHUNK_ELEMENTS
        stop = k.minimum(start + CHUNK_ELEMENTS, along)
        first = segment.index[-1]
        with k.loop(first, first + segment.count) as position:
            corner = position * BLOCK_ELEMENTS
            limit = k.minimum(corner + BLOCK_ELEMENTS, across)
            block = _Block(source, to, (corner, limit), (start, stop))
            done = k.variable(k.const(0))
            with k.when((across >= side) & (along >= side)):
                tile.copy(block)
                done.set(1)
            for narrow in few:
                with k.when(done.get().equals(0)):
                    narrow.copy(block, done)
            with k.when(done.get().equals(0)):
                tile.copy_elements(block)
    k.ret()
    return str(k.module)


@dataclass(frozen=True)
class _Block:
    """Part of a plane that one work item copies: base pointers, ranges across and along."""

    source: Val
    target: Val
    across: tuple[Val, Val]
    along: tuple[Val, Val]


class _Tile:
    """The copying of blocks by square tiles, or element by element where they do not fit."""

    def __init__(
        self, k: KernelBuilder, kind: Any, side: int, sizes: tuple[Val, Val, Val, Val]
    ) -> None:
        self.k = k
        self.kind = kind
        self.side = side
        self.itemsize = kind.width // 8
        self.across, self.along, self.x_along, self.y_across = sizes

    def place(self, block: _Block, across: Val, along: Val) -> tuple[Val, Val]:
        """Where an element lies in the source and in the target."""
        return (
            block.source + (across * self.itemsize + along * self.x_along),
            block.target + (across * self.y_across + along * self.itemsize),
        )

    def copy(self, block: _Block) -> None:
        """Copy by tiles; neither axis is shorter than a tile.

        Strips of a cache line's width go through the block one after the other: more rows at a
        time would evict each other where their distance is a large power of two.
        """
        k, side = self.k, self.side
        row = k.vector(self.kind, side)
        strip = max(side, _LINE_BYTES // self.itemsize)
        first, last = block.across
        with (
            k.loop(first, last, strip) as line,
            k.loop(*block.along, side) as j,
            k.loop(line, k.minimum(line + strip, last), side) as i,
        ):
            at = k.minimum(i, self.across - side), k.minimum(j, self.along - side)
            source, target = self.place(block, *at)
            rows = [k.load(source + self.x_along * r, row, align=1) for r in range(side)]
            for r, value in enumerate(transposed(k, rows)):
                k.store(value, target + self.y_across * r, align=1)

    def copy_elements(self, block: _Block) -> None:
        """Copy element by element; the inner loop runs over the longer side."""
        k = self.k
        across, along = block.across, block.along
        with k.branch((across[1] - across[0]) > (along[1] - along[0])) as (then, otherwise):
            with then, k.loop(*along) as j, k.loop(*across) as i:
                source, target = self.place(block, i, j)
                move(k, target, source, self.kind)
            with otherwise, k.loop(*across) as i, k.loop(*along) as j:
                source, target = self.place(block, i, j)
                move(k, target, source, self.kind)


class _Few:
    """Copies between `count` planes and pixels of `count` elements that lie densely together."""

    def __init__(self, tile: _Tile, count: int) -> None:
        self.tile = tile
        self.count = count
        self.pixel = count * tile.itemsize
        self.vector_bytes = tile.side * tile.itemsize

    def copy(self, block: _Block, done: Variable) -> None:
        """Copy where the sizes allow it, and say so in `done`."""
        tile = self.tile
        k, side = tile.k, tile.side
        packs = tile.along.equals(self.count) & tile.y_across.equals(self.pixel)
        with k.when(packs & (tile.across >= side)):
            with k.loop(*block.across, side) as i:
                self._pack(block, k.minimum(i, tile.across - side))
            done.set(1)
        unpacks = tile.across.equals(self.count) & tile.x_along.equals(self.pixel)
        with k.when(unpacks & (tile.along >= side)):
            with k.loop(*block.along, side) as j:
                self._unpack(block, k.minimum(j, tile.along - side))
            done.set(1)

    def _pack(self, block: _Block, at: Val) -> None:
        """`side` elements of each plane become `side` pixels."""
        tile, count = self.tile, self.count
        k, side = tile.k, tile.side
        source, target = tile.place(block, at, k.const(0))
        vector = k.vector(tile.kind, side)
        planes = [k.load(source + tile.x_along * c, vector, align=1) for c in range(count)]
        for part in range(count):
            places = [divmod(part * side + lane, count) for lane in range(side)]
            picked = picked_lanes(k, planes, [(plane, pixel) for pixel, plane in places])
            k.store(picked, target + part * self.vector_bytes, align=1)

    def _unpack(self, block: _Block, at: Val) -> None:
        """`side` pixels become `side` elements of each plane."""
        tile, count = self.tile, self.count
        k, side = tile.k, tile.side
        source, target = tile.place(block, k.const(0), at)
        vector = k.vector(tile.kind, side)
        parts = [
            k.load(source + part * self.vector_bytes, vector, align=1) for part in range(count)
        ]
        for plane in range(count):
            lanes = [divmod(pixel * count + plane, side) for pixel in range(side)]
            picked = picked_lanes(k, parts, lanes)
            k.store(picked, target + tile.y_across * plane, align=1)


def picked_lanes(k: KernelBuilder, vectors: list[Val], lanes: list[tuple[int, int]]) -> Val:
    """Vector whose lanes are (vector, lane) pairs of `vectors`, by one shuffle per vector added."""
    width = len(lanes)
    picked = vectors[0]
    for position, vector in enumerate(vectors[1:], start=1):
        mask = []
        for slot, (owner, lane) in enumerate(lanes):
            taken = lane if position == 1 and owner == 0 else slot
            mask.append(width + lane if owner == position else taken)
        picked = k.shuffle(picked, vector, mask)
    return picked


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

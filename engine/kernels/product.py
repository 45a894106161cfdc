"""Matrix products of float64 and of integers of 32 and 64 bits, which the dot kernel leaves out.

``y[batch, i, j] = sum over k of a[batch, i, k] * b[batch, k, j]``, rows of b and y dense, in the
order of k; integers wrap around. A work item is a tile of `ROWS` rows and `VECTORS` vectors of one
matrix. Rows beyond the last repeat it and are not stored.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import TYPES, KernelBuilder, Val, is_float
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import axis_names, segments

ROWS: Final = 4
VECTORS: Final = 2
BATCH: Final = 3
"""Batch axes."""

DTYPES: Final = ("float64", "int32", "int64", "uint32", "uint64")


def tile_width(target: Target, dtype: str) -> int:
    """Columns of a tile."""
    return VECTORS * target.lanes(element_bytes(dtype))


def _layout(options: Options) -> Layout:
    strides = " ".join(axis_names(f"{name}_batch", BATCH) for name in "aby")
    sizes = "row_blocks column_blocks rows columns depth a_row a_step b_row y_row"
    return Layout.of("a b y", f"{sizes} {axis_names('batch', BATCH)} {strides}")


def _build(symbol: str, target: Target, options: Options) -> str:
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    lanes = target.lanes(itemsize)
    width = tile_width(target, dtype)
    k = KernelBuilder(symbol, target, _layout(options))
    a, b, y = (k.tensor(name) for name in "aby")
    row_blocks, column_blocks, rows, columns, depth = k.ints(
        "row_blocks column_blocks rows columns depth"
    )
    a_row, a_step, b_row, y_row = k.ints("a_row a_step b_row y_row")
    batch = k.ints(axis_names("batch", BATCH))
    vector = k.vector(kind, lanes)
    tile = {
        "a": [a_row * ROWS, k.const(0)],
        "b": [k.const(0), k.const(width * itemsize)],
        "y": [y_row * ROWS, k.const(width * itemsize)],
    }
    strides = [
        [*k.ints(axis_names(f"{name}_batch", BATCH)), *steps] for name, steps in tile.items()
    ]

    def multiplied(at: list[Val], row: Val, masks: list[Val] | None) -> None:
        left, right, to = at
        sums = [[k.variable(k.const(0, vector)) for _ in range(VECTORS)] for _ in range(ROWS)]
        places = [k.minimum(rows - 1 - row, r) * a_row for r in range(ROWS)]
        with k.loop(0, depth) as step:
            line = right + step * b_row
            columns_of_b = []
            for v in range(VECTORS):
                place = line + v * lanes * itemsize
                columns_of_b.append(
                    k.load(place, vector)
                    if masks is None
                    else k.masked_load(place, masks[v], vector)
                )
            for r in range(ROWS):
                factor = k.splat(k.load(left + (places[r] + step * a_step), kind), lanes)
                for v in range(VECTORS):
                    total = sums[r][v].get()
                    if is_float(kind):
                        sums[r][v].set(k.fma(factor, columns_of_b[v], total))
                    else:
                        sums[r][v].set(factor * columns_of_b[v] + total)
        for r in range(ROWS):
            with k.when(row + r < rows):
                for v in range(VECTORS):
                    place = to + (y_row * r + v * lanes * itemsize)
                    if masks is None:
                        k.store(sums[r][v].get(), place)
                    else:
                        k.masked_store(sums[r][v].get(), place, masks[v])

    dims = [*batch, row_blocks, column_blocks]
    with segments(k, dims, strides) as segment, k.loop(0, segment.count) as i:
        shift = i * (width * itemsize)
        at = [
            a + segment.offsets[0],
            b + (segment.offsets[1] + shift),
            y + (segment.offsets[2] + shift),
        ]
        row = segment.index[-2] * ROWS
        left = columns - (segment.index[-1] + i) * width
        with k.branch(left >= width) as (whole, part):
            with whole:
                multiplied(at, row, None)
            with part:
                masks = [k.mask(left - v * lanes, lanes) for v in range(VECTORS)]
                multiplied(at, row, masks)
    k.ret()
    return str(k.module)


PRODUCT: Final = register(
    Family("product", "matrix products of other types than float32", _layout, _build)
)

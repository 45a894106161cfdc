"""Walking a many-dimensional index space: shared by every kernel that moves data.

Work items are numbered row-major over some axes. `segments` turns the range ``[begin, end)`` into
pieces along the innermost axis, so that division happens once per call and not once per item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from engine.codegen.builder import KernelBuilder, Val, Variable

RANKS: Final = (3, 7, 15, 31)
"""Outer axes that kernels are generated for: few, so that kernels are shared."""


def outer_rank(axes: int) -> int:
    """Number of outer axes of the kernel that serves `axes` of them."""
    return next(rank for rank in RANKS if rank >= axes)


def axis_names(prefix: str, rank: int) -> str:
    """Parameter names of one word per axis: ``x0 x1 x2``."""
    return " ".join(f"{prefix}{axis}" for axis in range(rank))


@dataclass(frozen=True)
class Segment:
    """Items that differ in the innermost index only.

    `index` is the first item's index per axis, `count` the number of items, `offsets` the byte
    offset of the first item per operand.
    """

    index: tuple[Val, ...]
    count: Val
    offsets: tuple[Val, ...]


def decode(k: KernelBuilder, item: Val, dims: Sequence[Val]) -> list[Val]:
    """Row-major index of `item` in a space of `dims`, all positive."""
    index: list[Val] = []
    rest = item
    for dim in reversed(dims[1:]):
        index.append(rest % dim)
        rest = rest // dim
    index.append(rest)
    return index[::-1]


@contextmanager
def segments(
    k: KernelBuilder,
    dims: Sequence[Val],
    strides: Sequence[Sequence[Val]],
    begin: Val | None = None,
    end: Val | None = None,
) -> Iterator[Segment]:
    """Loop over the segments of ``[begin, end)``, by default the kernel's own range.

    `strides` holds, per operand, the byte stride of each axis. The body sees one `Segment`.
    """
    first, last = begin or k.begin, end or k.end
    with k.when(first < last):
        positive = [k.maximum(dim, 1) for dim in dims]
        index = [k.variable(value) for value in decode(k, first, positive)]
        position = k.variable(first)
        with k.while_(lambda: position.get() < last):
            at = tuple(variable.get() for variable in index)
            count = k.minimum(positive[-1] - at[-1], last - position.get())
            offsets = tuple(_dot(k, at, operand) for operand in strides)
            yield Segment(at, count, offsets)
            position.add(count)
            _advance(k, index, positive, count)


def _dot(k: KernelBuilder, index: Sequence[Val], strides: Sequence[Val]) -> Val:
    total = k.const(0)
    for position, stride in zip(index, strides, strict=True):
        total = total + position * stride
    return total


def _advance(
    k: KernelBuilder, index: Sequence[Variable], dims: Sequence[Val], count: Val | int
) -> None:
    index[-1].add(count)
    if len(index) == 1:
        return
    with k.when(index[-1].get().equals(dims[-1])):
        index[-1].set(0)
        _advance(k, index[:-1], dims[:-1], 1)

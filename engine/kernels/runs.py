"""Runs of bytes: the inner loops of every kernel that moves data.

A run ends with a vector that overlaps the one before and writes the same bytes again, so that no
tail is copied element by element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import I8, KernelBuilder, Val

_UNROLL: Final = 4


def integer(itemsize: int) -> Any:
    """Integer type that carries an element of `itemsize` bytes."""
    return ir.IntType(8 * itemsize)


def move(k: KernelBuilder, target: Val, source: Val, kind: Any) -> None:
    """Copy one scalar or vector between unaligned places."""
    k.store(k.load(source, kind, align=1), target, align=1)


def _widths(k: KernelBuilder) -> list[int]:
    """Powers of two from 1 to the vector's bytes."""
    return [1 << power for power in range(k.target.vector_bytes.bit_length())]


def byte_vector(k: KernelBuilder, width: int) -> Any:
    """Type of `width` bytes that one instruction moves."""
    return integer(width) if width <= 8 else k.vector(I8, width)


def by_size(
    k: KernelBuilder,
    size: Val,
    small: Callable[[int], None],
    large: Callable[[], None],
) -> None:
    """Emit ``small(w)`` for sizes in [w, 2w), ``large()`` from the vector's width on.

    Sizes of zero or less do nothing. `small` covers its run by two moves of `w` bytes.
    """
    *widths, vector = _widths(k)
    with k.branch(size >= vector) as (then, otherwise):
        with then:
            large()
        with otherwise:
            for width in widths:
                with k.when((size >= width) & (size < 2 * width)):
                    small(width)


def vector_run(k: KernelBuilder, size: Val, step: Callable[[list[Val]], None]) -> None:
    """Cover [0, size) bytes, at least one vector, by vectors; `step` takes their offsets."""
    width = k.target.vector_bytes
    position = k.variable(k.const(0))
    with k.while_(lambda: position.get() + _UNROLL * width <= size):
        at = position.get()
        step([at + i * width for i in range(_UNROLL)])
        position.add(_UNROLL * width)
    with k.while_(lambda: position.get() + width <= size):
        step([position.get()])
        position.add(width)
    with k.when(position.get() < size):
        step([size - width])


def copy_vectors(k: KernelBuilder, target: Val, source: Val, size: Val) -> None:
    """Copy `size` bytes, at least one vector."""
    kind = byte_vector(k, k.target.vector_bytes)

    def step(offsets: list[Val]) -> None:
        values = [k.load(source + offset, kind, align=1) for offset in offsets]
        for offset, value in zip(offsets, values, strict=True):
            k.store(value, target + offset, align=1)

    vector_run(k, size, step)


def copy_run(k: KernelBuilder, target: Val, source: Val, size: Val) -> None:
    """Copy `size` bytes between runs that do not overlap."""

    def small(width: int) -> None:
        kind = byte_vector(k, width)
        end = size - width
        first, last = k.load(source, kind, align=1), k.load(source + end, kind, align=1)
        k.store(first, target, align=1)
        k.store(last, target + end, align=1)

    by_size(k, size, small, lambda: copy_vectors(k, target, source, size))


def fill_run(k: KernelBuilder, target: Val, size: Val, pattern: Val) -> None:
    """Repeat `pattern`, a vector of bytes, over `size` bytes of whole elements."""
    width = k.target.vector_bytes

    def small(part: int) -> None:
        piece = k.shuffle(pattern, pattern, list(range(part)))
        value = k.bitcast(piece, byte_vector(k, part))
        k.store(value, target, align=1)
        k.store(value, target + (size - part), align=1)

    def large() -> None:
        def step(offsets: list[Val]) -> None:
            for offset in offsets:
                k.store(pattern, target + offset, align=1)

        vector_run(k, size, step)

    assert pattern.type.count == width
    by_size(k, size, small, large)


def splat_pattern(k: KernelBuilder, value: Val) -> Val:
    """Vector of bytes that repeats an integer `value`."""
    width = k.target.vector_bytes
    lanes = width * 8 // value.type.width
    return k.bitcast(k.splat(value, lanes), k.vector(I8, width))

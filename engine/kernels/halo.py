"""Frames around windows: zero halos, and the borders that Pad adds."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, decode, segments
from engine.kernels.runs import copy_run, fill_run, splat_pattern


def _layout(options: Options) -> Layout:
    names = [axis_names(prefix, options["rank"]) for prefix in ("d", "y")]
    return Layout.of("y", "runs start run_bytes total_bytes pattern " + " ".join(names))


def _build(symbol: str, target: Target, options: Options) -> str:
    """Item i fills the bytes between run i-1 and run i; item `runs` those after the last run.

    They are filled with the 8 bytes of `pattern`, which repeats an element. Run i starts at
    ``start + sum(index * stride)``; `y` points at the buffer's first byte.
    """
    rank = options["rank"]
    k = KernelBuilder(symbol, target, _layout(options))
    y = k.tensor("y")
    runs, start, run_bytes, total = k.ints("runs start run_bytes total_bytes")
    dims = k.ints(axis_names("d", rank))
    strides = k.ints(axis_names("y", rank))
    pattern = splat_pattern(k, k.int("pattern"))
    gap = k.variable(k.const(0))

    with k.when((k.begin > 0) & (k.begin < k.end)):
        index = decode(k, k.begin - 1, [k.maximum(dim, 1) for dim in dims])
        gap.set(start + run_bytes)
        for position, stride in zip(index, strides, strict=True):
            gap.add(position * stride)
    with segments(k, dims, [strides], k.begin, k.minimum(k.end, runs)) as segment:
        first = start + segment.offsets[0]
        with k.loop(0, segment.count) as i:
            run = first + i * strides[-1]
            at = gap.get()
            fill_run(k, y + at, run - at, pattern)
            gap.set(run + run_bytes)
    with k.when((k.begin <= runs) & (k.end > runs)):
        at = gap.get()
        fill_run(k, y + at, total - at, pattern)
    k.ret()
    return str(k.module)


HALO: Final = register(Family("halo", "frame around a window", _layout, _build))


def _border_layout(options: Options) -> Layout:
    names = [axis_names(prefix, options["rank"]) for prefix in ("d", "y")]
    return Layout.of("y", "before after size step " + " ".join(names))


def _build_border(symbol: str, target: Target, options: Options) -> str:
    """Borders along one axis, copied from inside the window; the axes within are complete.

    A work item is one position of the border, `step` bytes long. `y` points at its axis' start.
    """
    rank, mode = options["rank"], options["mode"]
    k = KernelBuilder(symbol, target, _border_layout(options))
    y = k.tensor("y")
    before, after, size, step = k.ints("before after size step")
    dims, strides = (k.ints(axis_names(prefix, rank)) for prefix in ("d", "y"))

    with segments(k, [*dims, before + after], [[*strides, k.const(0)]]) as segment:
        line = y + segment.offsets[0]
        first = segment.index[-1]
        with k.loop(first, first + segment.count) as border:
            place = k.select(border < before, border, border + size)
            source = _mirrored(k, mode, place - before, size) + before
            copy_run(k, line + place * step, line + source * step, step)
    k.ret()
    return str(k.module)


def _mirrored(k: KernelBuilder, mode: str, place: Val, size: Val) -> Val:
    """Position inside [0, size) that the border element at `place` repeats."""
    last = k.maximum(size - 1, 0)
    if mode == "edge":
        return k.minimum(k.maximum(place, 0), last)
    period = k.maximum(last * 2 if mode == "reflect" else size, 1)
    rest = place - (place / period) * period
    rest = k.select(rest < 0, rest + period, rest)
    if mode == "wrap":
        return rest
    return k.select(rest > last, period - rest, rest)


BORDER: Final = register(
    Family("border", "border along an axis from the inside", _border_layout, _build_border)
)

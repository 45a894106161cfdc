"""Zeroing of halos: the gaps between the runs of a window inside a dense buffer."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I8, KernelBuilder
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, decode, segments
from engine.kernels.runs import fill_run


def _layout(options: Options) -> Layout:
    names = [axis_names(prefix, options["rank"]) for prefix in ("d", "y")]
    return Layout.of("y", "runs start run_bytes total_bytes " + " ".join(names))


def _build(symbol: str, target: Target, options: Options) -> str:
    """Item i zeroes the bytes between run i-1 and run i; item `runs` those after the last run.

    Run i starts at ``start + sum(index * stride)``; `y` points at the buffer's first byte.
    """
    rank = options["rank"]
    k = KernelBuilder(symbol, target, _layout(options))
    y = k.tensor("y")
    runs, start, run_bytes, total = k.ints("runs start run_bytes total_bytes")
    dims = k.ints(axis_names("d", rank))
    strides = k.ints(axis_names("y", rank))
    zeros = k.const(0, k.vector(I8, target.vector_bytes))
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
            fill_run(k, y + at, run - at, zeros)
            gap.set(run + run_bytes)
    with k.when((k.begin <= runs) & (k.end > runs)):
        at = gap.get()
        fill_run(k, y + at, total - at, zeros)
    k.ret()
    return str(k.module)


HALO: Final = register(Family("halo", "zero frame around a window", _layout, _build))

"""Sizes as tensors: parameter words written to memory."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names
from engine.kernels.runs import integer

MOST: Final = 8
"""Words that one call writes."""


def _layout(options: Options) -> Layout:
    return Layout.of("y", "count " + axis_names("w", MOST))


def _build(symbol: str, target: Target, options: Options) -> str:
    itemsize = options["itemsize"]
    k = KernelBuilder(symbol, target, _layout(options))
    y, count = k.tensor("y"), k.int("count")
    for position, word in enumerate(k.ints(axis_names("w", MOST))):
        with k.when(count > position):
            value = k.convert(word, integer(itemsize))
            k.store(value, y + position * itemsize, align=1)
    k.ret()
    return str(k.module)


WORDS: Final = register(Family("words", "parameter words as a tensor", _layout, _build))


def _ramp_layout(options: Options) -> Layout:
    return Layout.of("y", "start step size")


CHUNK_ELEMENTS: Final = 1024
"""Elements of one work item of ``ramp``."""


def _build_ramp(symbol: str, target: Target, options: Options) -> str:
    itemsize = options["itemsize"]
    k = KernelBuilder(symbol, target, _ramp_layout(options))
    y = k.tensor("y")
    start, step, size = k.ints("start step size")
    stop = k.minimum(k.end * CHUNK_ELEMENTS, size)
    with k.loop(k.begin * CHUNK_ELEMENTS, stop) as i:
        value = k.convert(start + i * step, integer(itemsize))
        k.store(value, y + i * itemsize, align=1)
    k.ret()
    return str(k.module)


RAMP: Final = register(
    Family("ramp", "equally spaced integers", _ramp_layout, _build_ramp),
)

"""Rows written into a cache of sequences: TensorScatter of ONNX. A work item is one sequence."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I64, KernelBuilder
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.runs import copy_run


def _layout(options: Options) -> Layout:
    return Layout.of("starts update y", "share length count row_bytes")


def _build(symbol: str, target: Target, options: Options) -> str:
    """`count` rows written from the position that `starts` gives for each `share` of sequences."""
    k = KernelBuilder(symbol, target, _layout(options))
    starts, update, y = (k.tensor(name) for name in ("starts", "update", "y"))
    share, length, count, size = k.ints("share length count row_bytes")
    with k.loop(k.begin, k.end) as item:
        start = k.load(starts + item // share * 8, I64)
        outside = (start < 0) | (start + (0 if options["circular"] else count) > length)
        with k.when(outside):
            k.ret(int(Status.INDEX_OUT_OF_RANGE))
        with k.loop(0, count) as i:
            place = start + i
            if options["circular"]:
                place = place % k.maximum(length, 1)
            copy_run(
                k, y + (item * length + place) * size, update + (item * count + i) * size, size
            )
    k.ret()
    return str(k.module)


CACHE: Final = register(Family("cache_rows", "rows written into sequences", _layout, _build))

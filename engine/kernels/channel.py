"""Operators along the channel axis of [outer, channels, inner]: scale and shift, local response.

``scale_shift`` (inference of batch normalisation): with the pattern ``last`` inner is 1 and a work
item is one row of channels; with ``middle`` a work item is the inner axis of one channel.

``local_response`` divides by a power of the mean square over neighbouring channels; a work item is
a strip of `strip_width` inner elements of all channels.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.math import exp, log
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

_VECTORS: Final = 4


def strip_width(target: Target) -> int:
    """Inner elements of one work item of ``local_response``."""
    return target.lanes(4)


def _scale_shift_layout(options: Options) -> Layout:
    last = options["pattern"] == "last"
    return Layout.of("x y scale shift", "channels" if last else "channels inner")


def _scale_shift(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _scale_shift_layout(options))
    lanes = Lanes(k, options["dtype"])
    last = options["pattern"] == "last"
    x, y, scales, shifts = (k.tensor(name) for name in ("x", "y", "scale", "shift"))
    channels = k.int("channels")
    length = channels if last else k.int("inner")
    with k.loop(k.begin, k.end) as item:
        offset = item * length * lanes.itemsize
        source, destination = x + offset, y + offset
        place = item % channels * lanes.itemsize

        def weight(pointer: Val, place: Val = place) -> Val | None:
            if last:
                return None
            return lanes.splat(k.load(pointer + place, lanes.scalar))

        scale, shift = weight(scales), weight(shifts)

        def body(
            part: Part,
            source: Val = source,
            destination: Val = destination,
            scale: Val | None = scale,
            shift: Val | None = shift,
        ) -> None:
            for vector in range(part.vectors):
                value = part.load(source, vector)
                factor = scale if scale is not None else part.load(scales, vector)
                bias = shift if shift is not None else part.load(shifts, vector)
                part.store(k.fma(value, factor, bias), destination, vector)

        lanes.sweep(length, _VECTORS, body)
    k.ret()
    return str(k.module)


def _local_response_layout(options: Options) -> Layout:
    return Layout.of("x y", "channels inner before after", "alpha beta bias")


def _local_response(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _local_response_layout(options))
    lanes = Lanes(k, "float32")
    x, y = k.tensor("x"), k.tensor("y")
    channels, inner, before, after = k.ints("channels inner before after")
    alpha, beta, bias = (lanes.splat(k.float(name)) for name in ("alpha", "beta", "bias"))
    pitch = inner * lanes.itemsize
    width = strip_width(target)
    strips = (inner + (width - 1)) // width
    with k.loop(k.begin, k.end) as item:
        start = item % strips * width
        shift = (item // strips * channels * inner + start) * lanes.itemsize

        def body(part: Part, shift: Val = shift) -> None:
            with k.loop(0, channels) as channel:
                low = k.maximum(channel - before, 0)
                high = k.minimum(channel + after + 1, channels)
                squares = k.variable(lanes.fill(0))
                with k.loop(low, high) as neighbour:
                    value = part.load(x + shift + neighbour * pitch)
                    squares.set(k.fma(value, value, squares.get()))
                base = k.fma(squares.get(), alpha, bias)
                divisor = exp(k, log(k, base) * beta)
                place = shift + channel * pitch
                part.store(part.load(x + place) / divisor, y + place)

        lanes.sweep(k.minimum(inner - start, width), 1, body)
    k.ret()
    return str(k.module)


register(
    Family(
        "scale_shift", "one factor and one summand per channel", _scale_shift_layout, _scale_shift
    )
)
register(
    Family(
        "local_response",
        "local response normalisation over neighbouring channels",
        _local_response_layout,
        _local_response,
    )
)

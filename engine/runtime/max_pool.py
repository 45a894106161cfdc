"""MaxPool in numpy, tap by tap, with the places of the largest elements."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from engine.graph.ir import AnyArray, Node


@dataclass(frozen=True)
class _Axis:
    """A window along one axis: `count` places, `stride` apart, from `before` ahead of the input."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    count: int

    @property
    def taps(self) -> range:
        """Taps that lie inside for some output: few, however large a kernel claims to be."""
        first = -((self.count - 1) * self.stride - self.before) // self.dilation
        last = (self.size - 1 + self.before) // self.dilation
        return range(max(first, 0), min(last + 1, self.kernel) if self.count else 0)

    def positions(self, tap: int) -> AnyArray:
        """Input position of a tap per output; it may lie outside."""
        return np.arange(self.count) * self.stride + (tap * self.dilation - self.before)


def _axes(node: Node, sizes: tuple[int, ...]) -> list[_Axis]:
    rank = len(sizes)
    kernel = node.attribute("kernel_shape")
    strides = node.attribute("strides") or [1] * rank
    dilations = node.attribute("dilations") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    mode, ceil = node.attribute("auto_pad", "NOTSET"), node.attribute("ceil_mode", 0)
    found = []
    for i, size in enumerate(sizes):
        span = (kernel[i] - 1) * dilations[i] + 1
        before, after = (0, 0) if mode == "VALID" else (pads[i], pads[i + rank])
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // strides[i])
            total = max((count - 1) * strides[i] + span - size, 0)
            before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        else:
            room = size + before + after - span
            count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
            # No window starts behind the input and what stands before it.
            if ceil and (count - 1) * strides[i] >= size + before:
                count -= 1
        found.append(_Axis(size, kernel[i], strides[i], dilations[i], before, max(count, 0)))
    return found


def max_pool(node: Node, x: AnyArray) -> list[Any]:
    """Largest elements of x [N, C, spatial...] per window, and where they lie in all of x.

    Of equal elements the first counts. Places follow the attribute ``storage_order`` within an
    image.
    """
    axes = _axes(node, x.shape[2:])
    shape = (*x.shape[:2], *(axis.count for axis in axes))
    places: AnyArray = np.arange(int(np.prod(x.shape[2:])))
    if node.attribute("storage_order", 0):
        places = places.reshape(x.shape[:1:-1]).T
    else:
        places = places.reshape(x.shape[2:])
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    largest = np.full(shape, lowest, x.dtype)
    chosen = np.full(shape, -1, np.int64)
    for taps in product(*(axis.taps for axis in axes)):
        positions = [axis.positions(tap) for axis, tap in zip(axes, taps, strict=True)]
        inside = [(at >= 0) & (at < axis.size) for at, axis in zip(positions, axes, strict=True)]
        window: Any = np.ix_(*(at[kept] for at, kept in zip(positions, inside, strict=True)))
        target: Any = np.ix_(*(np.flatnonzero(kept) for kept in inside))
        values = x[(slice(None), slice(None), *window)]
        here = (slice(None), slice(None), *target)
        better = (values > largest[here]) | (chosen[here] < 0)
        largest[here] = np.where(better, values, largest[here])
        chosen[here] = np.where(better, places[window], chosen[here])
    images = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * len(axes))
    return [largest, chosen + images * places.size]

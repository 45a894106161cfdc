"""Rule of Slice: numpy's clamping of bounds on symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence

from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.elements import MAX_ELEMENTS
from engine.graph.inference.registry import rule

_FAR = 10**9
"""Slice ends from here on mean "to the end"; exporters write 10**9, 2**31 - 1 and 2**63 - 1."""


@rule("Slice")
def _slice_of(node: Inference) -> None:
    shape = node.shape(0)
    if node.version < 10:
        begins: list[Dim | None] = [Dim.of(v) for v in node.attribute("starts")]
        ends: list[Dim | None] = [Dim.of(v) for v in node.attribute("ends")]
        axes = list(node.attribute("axes") or range(len(begins)))
        steps: list[Dim | None] = [Dim.of(1)] * len(begins)
    else:
        if node.has(3):
            axes = node.integers(3)
        else:
            axes = list(range(len(node.entries(1))))
        begins = _entries(node, 1, len(axes))
        ends = _entries(node, 2, len(axes))
        steps = _entries(node, 4, len(axes)) if node.has(4) else [Dim.of(1)] * len(axes)
    if not len(axes) == len(begins) == len(ends) == len(steps):
        node.error("starts, ends, axes and steps differ in length")
    result = list(shape)
    cut: list[slice] | None = [slice(None)] * len(shape)
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        index = node.axis(axis, len(shape))
        if step == 0:
            node.error("a step is 0")
        size = _slice_size(shape[index], begin, end, step)
        result[index] = node.fresh(0, index) if size is None else size
        bounds = [
            item.value if item is not None and item.is_constant else None
            for item in (begin, end, step)
        ]
        if cut is not None and None not in bounds:
            cut[index] = _python_slice(bounds)
        else:
            cut = None
    node.output(0, result)
    elements = node.state.known(node.value(0))
    if elements is not None and cut is not None:
        node.output(0, elements=elements[tuple(cut)])


def _entries(node: Inference, index: int, count: int) -> list[Dim | None]:
    try:
        return node.entries(index)
    except Unknown:
        return [None] * count


def _python_slice(bounds: Sequence[int | None]) -> slice:
    begin, end, step = bounds
    assert begin is not None
    assert end is not None
    assert step is not None
    # An end far below zero means "past the first element", which Python spells None.
    return slice(begin, None if step < 0 and end < -MAX_ELEMENTS else end, step)


def _slice_size(size: Dim, begin: Dim | None, end: Dim | None, step: Dim | None) -> Dim | None:
    """Elements that a slice keeps, by the clamping of numpy's basic slicing."""
    if begin is None or end is None or step is None or not step.is_constant:
        return None
    stride = step.value
    first = _clamp(size, begin, stride)
    last = _clamp(size, end, stride)
    if first is None or last is None:
        return None
    span = last - first if stride > 0 else first - last
    if span is size:
        return ceildiv(size, abs(stride))
    return maximum(ceildiv(span, abs(stride)), 0)


def _clamp(size: Dim, bound: Dim, stride: int) -> Dim | None:
    """Position that a slice bound means, for either direction; dimensions are never negative."""
    low, high = (Dim.of(0), size) if stride > 0 else (Dim.of(-1), size - 1)
    if bound.is_constant:
        if bound.value >= _FAR:
            return high
        if bound.value <= -_FAR:
            return low
        if bound.value < 0:
            return maximum(size + bound, low)
        return bound if bound == 0 and stride > 0 else minimum(bound, high)
    if bound.at_least(0):
        return minimum(bound, high)
    if (-bound).at_least(1):
        return maximum(size + bound, low)
    return None

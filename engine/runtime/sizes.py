"""What ``packhorse.Sizes`` measures: the numbers that operators take from tensors of a run.

Each function takes the arrays of the node's inputs (None where omitted), the shape of the first
one, and the node's attributes; it returns as many integers as the node has symbols. It raises
ValueError with the reason where the numbers are not valid. The rules are those of the ONNX operator
specification; bounds of Slice are clamped as numpy's basic slicing does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

Arrays = Sequence[Any]
_LONGEST: Final = 1 << 62
"""No axis is longer: sizes are words of 64 bits with a sign."""

Measurement = Callable[[Arrays, tuple[int, ...], Mapping[str, Any]], list[int]]


def integers(array: Any) -> list[int]:
    """Elements as Python integers."""
    return [int(item) for item in np.asarray(array).reshape(-1).tolist()]


def axis_of(axis: int, rank: int) -> int:
    """Axis counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def _axes(array: Any, rank: int) -> list[int]:
    found = [axis_of(axis, rank) for axis in integers(array)]
    if len(set(found)) != len(found):
        raise ValueError(f"axes {integers(array)} name an axis twice")
    return found


def _values(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    return integers(arrays[0])


def _bits(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    numbers = np.asarray(arrays[0], np.float64).reshape(-1).tolist()
    return [struct.unpack("q", struct.pack("d", number))[0] for number in numbers]


def _pattern(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """An element of 1, 2, 4 or 8 bytes, repeated to a word of 8."""
    content = np.ascontiguousarray(arrays[0]).tobytes()
    return [int.from_bytes(content * (8 // len(content)), "little", signed=True)]


def _range(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    start, limit, delta = (np.asarray(array).reshape(())[()] for array in arrays)
    if delta == 0:
        raise ValueError("delta is 0")
    count = np.ceil((limit - start) / delta)
    if not np.isfinite(count) or count > 2**62:
        raise ValueError(f"no range from {start} to {limit} in steps of {delta}")
    return [max(0, int(count))]


def _slice(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """First positions, steps and lengths along the attribute's axes."""
    _, starts, ends, axes, steps = (*arrays, None, None)[:5]
    begins, stops = integers(starts), integers(ends)
    strides = [1] * len(begins) if steps is None else integers(steps)
    listed = _axes(range(len(begins)) if axes is None else axes, len(shape))
    if not len(begins) == len(stops) == len(strides) == len(listed):
        raise ValueError("starts, ends, axes and steps differ in length")
    given = dict(zip(listed, zip(begins, stops, strides, strict=True), strict=True))
    firsts, steps_, lengths = [], [], []
    for axis in options["axes"]:
        begin, stop, step = given.get(axis, (0, shape[axis], 1))
        if step == 0:
            raise ValueError("a step is 0")
        # Python spells "past the first element, going back" as None.
        end = None if step < 0 and stop < -shape[axis] else stop
        window = range(*slice(begin, end, step).indices(shape[axis]))
        firsts.append(max(window.start, 0) if len(window) else 0)
        steps_.append(step)
        lengths.append(len(window))
    return firsts + steps_ + lengths


def _reshape(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    wanted = integers(arrays[1])
    total = math.prod(shape)
    sizes = []
    for place, size in enumerate(wanted):
        if size == 0 and not options["allowzero"]:
            if place >= len(shape):
                raise ValueError(f"entry {place} of shape {wanted} is 0, but there is no such axis")
            size = shape[place]
        if size < -1:
            raise ValueError(f"shape {wanted} has the entry {size}")
        sizes.append(size)
    if sizes.count(-1) > 1:
        raise ValueError(f"shape {wanted} has two entries of -1")
    rest = math.prod(size for size in sizes if size != -1)
    sizes = [total // max(rest, 1) if size == -1 else size for size in sizes]
    if math.prod(sizes) != total:
        raise ValueError(f"{total} elements of shape {list(shape)} do not fill the shape {wanted}")
    return sizes


def _squeeze(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    axes = _axes(arrays[1], len(shape))
    for axis in axes:
        if shape[axis] != 1:
            raise ValueError(f"the squeezed axis {axis} has length {shape[axis]}")
    return [size for axis, size in enumerate(shape) if axis not in axes]


def _unsqueeze(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    rank = len(shape) + np.asarray(arrays[1]).size
    axes = _axes(arrays[1], rank)
    rest = iter(shape)
    return [1 if axis in axes else next(rest) for axis in range(rank)]


def _pads(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """Pads of all axes: before each, then behind each."""
    rank = len(shape)
    pads = integers(arrays[1])
    axes = list(range(rank)) if arrays[2] is None else _axes(arrays[2], rank)
    if len(pads) != 2 * len(axes):
        raise ValueError(f"pads has {len(pads)} entries for {len(axes)} axes")
    found = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        found[axis], found[rank + axis] = pads[place], pads[place + len(axes)]
    for axis, size in enumerate(shape):
        if size + min(found[axis], 0) + min(found[rank + axis], 0) < 0:
            raise ValueError(f"pads {pads} take more from axis {axis} than its length {size}")
    return found


def _resize(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    scales = np.asarray(arrays[1], np.float32).reshape(-1)
    if not all(np.isfinite(scales)) or not all(scales > 0):
        raise ValueError(f"scales {scales.tolist()} are not all positive")
    sizes = [float(np.float32(shape[axis])) for axis in options["axes"]]
    grown = [size * float(scale) for size, scale in zip(sizes, scales, strict=True)]
    if any(size >= _LONGEST for size in grown):
        raise ValueError(f"scales {scales.tolist()} make an axis longer than {_LONGEST}")
    # The product is rounded to float32 first, as in the onnx package.
    return [int(np.floor(np.float32(size))) for size in grown]


def _fitted(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> np.float32:
    """The one scale that keeps the aspect ratio."""
    wanted = integers(arrays[1])
    if len(wanted) != len(options["axes"]) or any(size < 0 for size in wanted):
        raise ValueError(f"sizes {wanted} do not fit the axes {options['axes']}")
    ratios = [
        np.float32(size) / np.float32(max(shape[axis], 1))
        for axis, size in zip(options["axes"], wanted, strict=True)
    ]
    return min(ratios) if options["policy"] == "not_larger" else max(ratios)


def _fit(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    scale = _fitted(arrays, shape, options)
    if any(float(scale) * shape[a] >= _LONGEST for a in options["axes"]):
        raise ValueError(f"sizes keep the aspect ratio only with an axis longer than {_LONGEST}")
    return [math.floor(float(scale * np.float32(shape[a])) + 0.5) for a in options["axes"]]


def _fit_scales(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    scale = _fitted(arrays, shape, options)
    return _bits([np.full(len(options["axes"]), scale)], shape, options)


def _reduced(array: Any, rank: int, options: Mapping[str, Any]) -> list[int]:
    """Axes of a reduction; none given means all, or none where the node says so."""
    if np.asarray(array).size or options["noop"]:
        return _axes(array, rank)
    return list(range(rank))


def _reduce(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    axes = _reduced(arrays[1], len(shape), options)
    pairs = [(1, size) if axis in axes else (size, 1) for axis, size in enumerate(shape)]
    return [size for pair in pairs for size in pair]


def _kept(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    axes = _reduced(arrays[1], len(shape), options)
    if options["keepdims"]:
        return [1 if axis in axes else size for axis, size in enumerate(shape)]
    return [size for axis, size in enumerate(shape) if axis not in axes]


def _axis(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    axis = axis_of(integers(arrays[1])[0], len(shape))
    return [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]


def _lines(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """Complex numbers before, along and behind an axis; the last axis holds their parts."""
    outer = shape[:-1]
    axis = axis_of(integers(arrays[1])[0], len(shape))
    if axis == len(outer):
        raise ValueError("real and imaginary parts are no axis to transform")
    return [math.prod(outer[:axis]), outer[axis], math.prod(outer[axis + 1 :])]


def _spectrum(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """Shape of a transform along an axis, of a length that may be given."""
    axis = axis_of(integers(arrays[1])[0], len(shape))
    real = options["onesided"] and options["inverse"]
    length = 2 * (shape[axis] - 1) if real else shape[axis]
    if arrays[2] is not None:
        length = integers(arrays[2])[0]
    found = [*shape[:-1], 1 if real else 2]
    found[axis] = length // 2 + 1 if options["onesided"] and not real else length
    return found


_MEASUREMENTS: Final[dict[str, Measurement]] = {
    "axis": _axis,
    "bits": _bits,
    "counts": _values,
    "fit": _fit,
    "fit_scales": _fit_scales,
    "kept": _kept,
    "lines": _lines,
    "pads": _pads,
    "pattern": _pattern,
    "range": _range,
    "reduce": _reduce,
    "reshape": _reshape,
    "resize": _resize,
    "slice": _slice,
    "spectrum": _spectrum,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "values": _values,
}


def measure(arrays: Arrays, shape: tuple[int, ...], options: Mapping[str, Any]) -> list[int]:
    """Numbers of a Sizes node with the attributes `options`; `shape` is that of its first input.

    `arrays` may be None for an input that only its shape is needed of.
    """
    return _MEASUREMENTS[options["of"]](arrays, shape, options)


SHAPE_ONLY: Final = frozenset(
    {"axis", "fit", "fit_scales", "kept", "lines", "pads", "reduce", "reshape", "resize"}
    | {"slice", "spectrum", "squeeze", "unsqueeze"}
)
"""Measurements that need no more than the shape of their first input."""

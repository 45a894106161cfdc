"""Lowering of Resize: repetition where scales are whole numbers, else tables of taps per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, maximum
from engine.graph.ir import OURS, Node
from engine.kernels import resize
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked, shape_of
from engine.plan.lower.padding import repeated_bytes
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product

_COORDINATES: Final = (
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_crop_and_resize",
)
_REACH: Final = {"linear": 1, "cubic": 2}
"""Input positions on either side of a coordinate that the filter of a mode covers."""


@dataclass(frozen=True)
class _Axis:
    """A resized axis; scale 0 stands for the ratio of the sizes.

    A dim is the bits of a number that only a run tells.
    """

    axis: int
    size: Dim
    out: Dim
    scale: float | Dim
    roi: tuple[float | Dim, float | Dim]

    def factor(self) -> int | None:
        """The whole number that the axis is enlarged by, None for any other scale."""
        if self.size == ZERO or isinstance(self.scale, Dim):
            return None
        if self.scale:
            factor = Dim.of(int(self.scale))
        else:
            factor = self.out // self.size
        if factor.is_constant and factor.value >= 1 and self.size * factor == self.out:
            return factor.value if self.scale in (0.0, float(factor.value)) else None
        return None


@dataclass(frozen=True)
class _Resize:
    """What a node asks for."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float
    axes: tuple[_Axis, ...]
    whole: str = ""

    @property
    def extrapolate(self) -> bool:
        """Whether positions may lie outside of the input."""
        return self.coordinates == "tf_crop_and_resize"

    @property
    def repeats(self) -> bool:
        """Whether every output position o is the input position o // factor.

        With half-pixel coordinates, ``(o + 1/2)/f - 1/2`` lies less than a half from it.
        """
        if self.mode != "nearest" or any(axis.factor() is None for axis in self.axes):
            return False
        if self.coordinates == "asymmetric":
            return self.nearest == "floor"
        return "half_pixel" in self.coordinates and self.nearest.startswith("round")


def _floats(node: Node, index: int, name: str) -> Sequence[float | Dim] | None:
    value = node.input(index)
    if value is None or value.shape == (ZERO,):
        return None
    if value.data is None and value.dims is not None:
        return value.dims
    if value.data is None:
        raise NoKernel(f"input {value.name} ({name}) is known only at run time")
    return [float(number) for number in value.data.reshape(-1)] or None


def _request(node: Node) -> _Resize:
    checked_types(node)
    size, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    modern = node.op == "Resize" and (node.domain == OURS or node.version >= 11)
    scales = _floats(node, 2 if modern else 1, "scales")
    if scales is None and not modern:
        listed = node.attribute("scales")
        scales = None if listed is None else [float(scale) for scale in listed]
    if scales is None and (not modern or known_dims(node.input(3)) is None):
        raise NoKernel("the sizes are known only at run time")
    rank = len(size)
    listed_axes = node.attribute("axes")
    axes = list(range(rank)) if listed_axes is None else [int(a) % rank for a in listed_axes]
    coordinates = str(node.attribute("coordinate_transformation_mode", "half_pixel"))
    fractional = bool(node.attribute("fractional", 0)) and coordinates == "align_corners"
    nearest = str(node.attribute("nearest_mode", "round_prefer_floor"))
    if not modern:
        coordinates, nearest = "asymmetric", "floor"
    if coordinates not in _COORDINATES:
        raise NoKernel(f"coordinate_transformation_mode {coordinates}")
    crops = coordinates == "tf_crop_and_resize"
    roi = _floats(node, 1, "roi") if crops else None
    if crops and (roi is None or len(roi) != 2 * len(axes)):
        raise NoKernel("tf_crop_and_resize without a roi of two numbers per axis")
    policy = str(node.attribute("keep_aspect_ratio_policy", "stretch"))
    if scales is None and policy != "stretch":
        scales = [_uniform_scale(node, policy, [size[a] for a in axes])] * len(axes)
    found: list[_Axis] = []
    for position, axis in enumerate(axes):
        scale = scales[position] if scales is not None else 0.0
        window: tuple[float | Dim, float | Dim] = (0.0, 1.0)
        if roi:
            window = (roi[position], roi[position + len(axes)])
        same = not isinstance(scale, Dim) and (
            scale == 1.0 or (scale == 0.0 and size[axis] == out[axis])
        )
        if not same or window != (0.0, 1.0):
            found.append(_Axis(axis, size[axis], out[axis], scale, window))
    return _Resize(
        mode=str(node.attribute("mode", "nearest")),
        coordinates="fractional_corners" if fractional else coordinates,
        nearest=nearest,
        cubic=float(node.attribute("cubic_coeff_a", -0.75)),
        antialias=bool(node.attribute("antialias", 0)),
        exclude_outside=bool(node.attribute("exclude_outside", 0)),
        extrapolation=float(node.attribute("extrapolation_value", 0.0)),
        axes=tuple(sorted(found, key=lambda axis: axis.axis)),
        whole=str(node.attribute("whole", "")),
    )


def checked_types(node: Node) -> None:
    """The resized tensor is of a type that the mode has a kernel for."""
    checked(Node(node.op, node.inputs[:1], node.outputs))
    value = node.inputs[0]
    assert value is not None
    mode = str(node.attribute("mode", "nearest"))
    if mode not in ("nearest", *_REACH):
        raise NoKernel(f"mode {mode}")
    if mode != "nearest" and str(value.dtype) not in ("float32", "float64"):
        raise NoKernel(f"mode {mode} of {value.dtype}")


def _uniform_scale(node: Node, policy: str, size: list[Dim]) -> float:
    """The one scale that keeps the aspect ratio; needs constant sizes."""
    wanted = known_dims(node.input(3))
    if wanted is None or not all(dim.is_constant for dim in (*wanted, *size)):
        raise NoKernel(f"keep_aspect_ratio_policy {policy} of a size known only at run time")
    ratios = [
        np.float32(out.value) / np.float32(max(dim.value, 1))
        for out, dim in zip(wanted, size, strict=True)
    ]
    return float(min(ratios) if policy == "not_larger" else max(ratios))


@lowers("Resize", "Upsample", f"{OURS}.Resize")
def lower_resize(node: Node, low: Lowering) -> None:
    """Nearest, linear and cubic resampling of any axes, in any coordinate mode.

    ``packhorse.Resize`` always has sizes; its scales and roi may be the bits of doubles. With
    ``fractional``, aligned corners meet at size * scale, not at the whole number below. With
    ``whole``, the name of an integer type, results are rounded after every axis and limited to the
    type's range.
    """
    request = _request(node)
    source = low.read(node.inputs[0])
    if not request.axes:
        emit_copy(low, source, low.write(node.outputs[0], dense=False))
    elif request.repeats:
        _emit_repetition(low, request, source, low.write(node.outputs[0], dense=False))
    elif request.mode == "nearest":
        _emit_nearest(low, request, low.contiguous(source), low.write(node.outputs[0]))
    else:
        _emit_weighted(low, request, low.contiguous(source), low.write(node.outputs[0]))


def _emit_repetition(low: Lowering, request: _Resize, source: Tensor, result: Tensor) -> None:
    """Copy with an axis of stride 0 behind each enlarged axis."""
    factors = {axis.axis: axis.factor() or 1 for axis in request.axes}
    shape: list[Dim] = []
    from_: list[Dim] = []
    to: list[Dim] = []
    for axis, dim in enumerate(source.shape):
        factor = factors.get(axis, 1)
        shape.append(dim)
        from_.append(source.strides[axis])
        to.append(result.strides[axis] * factor)
        if factor > 1:
            shape.append(Dim.of(factor))
            from_.append(ZERO)
            to.append(result.strides[axis])
    emit_copy(
        low,
        replace(source, shape=tuple(shape), strides=tuple(from_), halo=()),
        replace(result, shape=tuple(shape), strides=tuple(to), halo=()),
    )


def _emit_table(
    low: Lowering, request: _Resize, axis: _Axis, step: Dim, dtype: str
) -> tuple[Dim, dict[str, Any]]:
    """Emit the table of one axis, whose positions are `step` bytes apart; taps and tensors."""
    nearest = request.mode == "nearest"
    taps = ONE if nearest else _taps(request, axis)
    tables: dict[str, Any] = {"offsets": low.temp(np.int64, (axis.out, taps), "offsets")}
    options: dict[str, Any] = {"coordinates": request.coordinates, "mode": request.mode}
    options["extrapolate"] = request.extrapolate
    if nearest:
        options["nearest"] = request.nearest
    else:
        options["dtype"] = dtype
        options["antialias"] = request.antialias
        options["exclude_outside"] = request.exclude_outside
        tables["weights"] = low.temp(dtype, (axis.out, taps), "weights")
        if request.extrapolate:
            tables["bias"] = low.temp(dtype, (axis.out,), "bias")
    low.call(
        KernelSpec.of(resize.TABLE.name, **options),
        items=axis.out,
        cost=10 * taps + 10,
        writes=" ".join(tables),
        **tables,
        size=axis.size,
        out=axis.out,
        taps=taps,
        step=step,
        scale=axis.scale,
        roi_start=axis.roi[0],
        roi_end=axis.roi[1],
        cubic=request.cubic,
        extrapolation=request.extrapolation,
    )
    return taps, tables


def _taps(request: _Resize, axis: _Axis) -> Dim:
    """Input positions that one output position reads: 2 * reach / min(scale, 1), rounded up."""
    reach = _REACH[request.mode]
    if not request.antialias:
        return Dim.of(2 * reach)
    if not isinstance(axis.scale, Dim) and axis.scale:
        return Dim.of(2 * math.ceil(reach / min(float(np.float32(axis.scale)), 1.0)))
    # A scale known only to a run is at least this ratio, which is rounded down.
    return maximum(ceildiv(axis.size * reach, maximum(axis.out, 1)), reach) * 2


def _emit_nearest(low: Lowering, request: _Resize, source: Tensor, result: Tensor) -> None:
    """All axes from the first resized one to the last go through a table each."""
    first, last = request.axes[0].axis, request.axes[-1].axis
    resized = {axis.axis: axis for axis in request.axes}
    words: dict[str, Any] = {}
    for position, axis in enumerate(range(first, last + 1)):
        plain = _Axis(axis, source.shape[axis], result.shape[axis], 1.0, (0.0, 1.0))
        step = source.strides[axis] * source.itemsize
        _, tables = _emit_table(low, request, resized.get(axis, plain), step, "")
        words[f"table{position}"] = tables["offsets"]
        words[f"d{position}"] = result.shape[axis]
        words[f"y_step{position}"] = result.strides[axis] * result.itemsize
    outer = product(result.shape[:first])
    row = product(result.shape[last + 1 :]) * result.itemsize
    value = np.asarray(request.extrapolation).astype(source.dtype)
    low.call(
        KernelSpec.of(resize.NEAREST.name, axes=last + 1 - first, extrapolate=request.extrapolate),
        items=outer * product(result.shape[first : last + 1]),
        cost=row // 8 + 2,
        writes="y",
        x=source,
        y=result,
        outer=outer,
        x_outer=product(source.shape[first:]) * source.itemsize,
        y_outer=product(result.shape[first:]) * result.itemsize,
        row_bytes=row,
        pattern=repeated_bytes(value),
        **words,
    )


def _emit_weighted(low: Lowering, request: _Resize, source: Tensor, result: Tensor) -> None:
    """One pass per axis, innermost first, through tensors in between."""
    dtype = str(source.dtype)
    remaining = list(reversed(request.axes))
    for axis in remaining:
        a = axis.axis
        shape = (*source.shape[:a], axis.out, *source.shape[a + 1 :])
        target = result if axis is remaining[-1] else low.temp(dtype, shape, "resized")
        step = source.strides[a] * source.itemsize
        taps, tables = _emit_table(low, request, axis, step, dtype)
        outer, inner = product(shape[:a]), product(shape[a + 1 :])
        fixed = taps.value if not request.antialias else 0
        low.call(
            KernelSpec.of(
                resize.AXIS.name,
                dtype=dtype,
                taps=fixed,
                extrapolate=request.extrapolate,
                whole=request.whole,
            ),
            items=outer * axis.out,
            cost=inner * taps // 8 + 2,
            writes="y",
            x=source,
            y=target,
            **tables,
            outer=outer,
            out=axis.out,
            inner=inner,
            taps=taps,
            x_outer=axis.size * step,
            y_outer=axis.out * step,
            y_step=step,
        )
        source = target

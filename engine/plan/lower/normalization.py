"""Lowering of normalisations: of rows by their own statistics, by channel, by neighbours."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv
from engine.graph.ir import Node, Value
from engine.kernels.channel import strip_width
from engine.plan.lowering import Lowering, NoKernel, copy, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product

_REAL: Final = ("float32", "float64")


def _input(node: Node) -> tuple[Value, tuple[Dim, ...], str]:
    """First input with its shape and data type; NoKernel where a kernel could not serve them."""
    value = node.inputs[0]
    if value is None or value.shape is None or value.dtype is None:
        raise NoKernel("the rank of the input is not known")
    dtype = str(value.dtype)
    if dtype not in _REAL:
        raise NoKernel(f"{node.op} of {dtype}; kernels exist for {' and '.join(_REAL)}")
    return value, value.shape, dtype


def _weights(
    node: Node, low: Lowering, names: tuple[str, ...], shape: tuple[Dim, ...]
) -> dict[str, Tensor]:
    """Inputs 1, 2, ... as dense tensors of `shape`; NoKernel where one has another."""
    found = [(name, node.input(1 + i)) for i, name in enumerate(names)]
    for name, value in found:
        if value is not None and value.shape != shape:
            raise NoKernel(f"the input {name} does not have the shape of what it scales")
        if value is not None and value.dtype != node.outputs[0].dtype:
            raise NoKernel(f"the input {name} has another data type than the output")
    return {name: low.read_dense(value) for name, value in found if value is not None}


def _emit_rows(
    low: Lowering,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    rows: Dim,
    length: Dim,
    epsilon: float,
    affine: str = "none",
    weights: dict[str, Tensor] | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
    parts: dict[str, Dim | int] | None = None,
) -> None:
    """Emit one ``normalize`` call; `parts` are the words of rows in several parts."""
    arguments: dict[str, Any] = {
        "length": length,
        **(weights or {}),
        **(parts or {}),
    }
    writes = "y"
    if statistics is not None:
        arguments["mean"], arguments["inverse"] = statistics
        writes = "y mean inverse"
    spec = KernelSpec.of(
        "normalize",
        dtype=str(x.dtype),
        norm=norm,
        affine=affine,
        bias="bias" in arguments,
        statistics=statistics is not None,
        parts=parts is not None,
    )
    elements = length * (parts or {}).get("parts", 1)
    cost = elements * 2 // low.target.lanes(x.itemsize) + 30
    low.call(spec, items=rows, cost=cost, writes=writes, x=x, y=y, epsilon=epsilon, **arguments)


def _lower_tail(node: Node, low: Lowering, norm: str, default_epsilon: float = 1e-5) -> None:
    """Normalise over all axes from `axis` on, with a scale and shift per element."""
    value, shape, dtype = _input(node)
    if int(node.attribute("stash_type", 1)) != 1 and dtype != "float64":
        raise NoKernel("stash_type asks for another precision than float32")
    axis = int(node.attribute("axis", -1)) % max(1, value.rank)
    names = ("scale", "bias") if norm == "variance" else ("scale",)
    weights = _weights(node, low, names, shape[axis:])
    x, y = low.read_dense(value), low.write(node.outputs[0])
    rows, length = product(shape[:axis]), product(shape[axis:])
    statistics: tuple[Tensor, Tensor] | None = None
    if any(output.name for output in node.outputs[1:]):
        # Of root mean square normalisation the second output is the factor, there is no mean.
        places = (None, 1) if norm == "square" else (1, 2)
        mean, inverse = (
            low.write(node.outputs[place])
            if place is not None and place < len(node.outputs) and node.outputs[place].name
            else low.temp(x.dtype, (rows,), "statistics")
            for place in places
        )
        statistics = (mean, inverse)
    _emit_rows(
        low,
        x,
        y,
        norm=norm,
        rows=rows,
        length=length,
        epsilon=float(node.attribute("epsilon", default_epsilon)),
        affine="element" if "scale" in weights else "none",
        weights=weights,
        statistics=statistics,
    )


@lowers("LayerNormalization")
def lower_layer(node: Node, low: Lowering) -> None:
    """Layer normalisation, with the mean and factor of every row where they are asked for."""
    _lower_tail(node, low, "variance")


@lowers("SimplifiedLayerNormalization", "RMSNormalization")
def lower_root_mean_square(node: Node, low: Lowering) -> None:
    """Normalisation by the root mean square, without subtracting the mean."""
    _lower_tail(node, low, "square")


@lowers("InstanceNormalization")
def lower_instance(node: Node, low: Lowering) -> None:
    """Every channel of every image [N, C, spatial...] by itself."""
    value, shape, _ = _input(node)
    if value.rank < 3:
        raise NoKernel("the input has no spatial axes")
    weights = _weights(node, low, ("scale", "bias"), (shape[1],))
    length = product(shape[2:])
    _emit_rows(
        low,
        low.read_dense(value),
        low.write(node.outputs[0]),
        norm="variance",
        rows=shape[0] * shape[1],
        length=length,
        epsilon=float(node.attribute("epsilon", 1e-5)),
        affine="part",
        weights=weights,
        parts={
            "parts": ONE,
            "part_stride": ZERO,
            "groups": shape[1],
            "group_stride": length,
            "outer_stride": shape[1] * length,
            "scale_group": ONE,
            "scale_part": ZERO,
        },
    )


@lowers("GroupNormalization")
def lower_group(node: Node, low: Lowering) -> None:
    """Groups of channels; until operator set 20 the scale is per group, since then per channel."""
    value, shape, _ = _input(node)
    if value.rank < 2:
        raise NoKernel("the input has no channels")
    groups = int(node.attribute("num_groups"))
    per_group = node.version < 21
    channels = shape[1]
    names = ("scale", "bias")
    weights = _weights(node, low, names, (Dim.of(groups),) if per_group else (channels,))
    length, parts = product(shape[2:]), channels // groups
    _emit_rows(
        low,
        low.read_dense(value),
        low.write(node.outputs[0]),
        norm="variance",
        rows=shape[0] * groups,
        length=length,
        epsilon=float(node.attribute("epsilon", 1e-5)),
        affine="part",
        weights=weights,
        parts={
            "parts": parts,
            "part_stride": length,
            "groups": groups,
            "group_stride": parts * length,
            "outer_stride": channels * length,
            "scale_group": ONE if per_group else parts,
            "scale_part": ZERO if per_group else ONE,
        },
    )


@lowers("LpNormalization")
def lower_lp(node: Node, low: Lowering) -> None:
    """Rows along one axis over their norm; another axis than the last is moved there and back."""
    value, shape, _ = _input(node)
    order = int(node.attribute("p", 2))
    if order not in (1, 2):
        raise NoKernel(f"norm of order {order}; kernels exist for 1 and 2")
    axis = int(node.attribute("axis", -1)) % max(1, value.rank)
    x, y = low.read(value), low.write(node.outputs[0])
    axes = [a for a in range(value.rank) if a != axis] + [axis]
    rows = product([dim for i, dim in enumerate(shape) if i != axis])
    moved = product(shape[axis + 1 :]) != ONE
    if moved:
        source = low.temp(x.dtype, x.permute(axes).shape)
        target = low.temp(y.dtype, source.shape)
        copy(low, x.permute(axes), source)
    else:
        source, target = low.contiguous(x), y
    _emit_rows(low, source, target, norm=f"l{order}", rows=rows, length=shape[axis], epsilon=0.0)
    if moved:
        copy(low, target, y.permute(axes))


@lowers("MeanVarianceNormalization")
def lower_mean_variance(node: Node, low: Lowering) -> None:
    """Mean and deviation over `axes`; where these are neither the last nor all but the channels,
    the data is moved so that they are the last.
    """
    value, shape, _ = _input(node)
    axes = sorted({int(a) % value.rank for a in node.attribute("axes") or (0, 2, 3)})
    kept = [a for a in range(value.rank) if a not in axes]
    order = kept + axes
    x, y = low.read(value), low.write(node.outputs[0])
    rows, length = product([shape[a] for a in kept]), product([shape[a] for a in axes])
    moved = order != list(range(value.rank))
    if moved and kept == [1] and value.rank > 2:
        inner = product(shape[2:])
        _emit_rows(
            low,
            low.contiguous(x),
            y,
            norm="deviation",
            rows=rows,
            length=inner,
            epsilon=1e-9,
            parts={
                "parts": shape[0],
                "part_stride": shape[1] * inner,
                "groups": shape[1],
                "group_stride": inner,
                "outer_stride": ZERO,
            },
        )
        return
    if moved:
        source = low.temp(x.dtype, x.permute(order).shape)
        target = low.temp(y.dtype, source.shape)
        copy(low, x.permute(order), source)
    else:
        source, target = low.contiguous(x), y
    _emit_rows(low, source, target, norm="deviation", rows=rows, length=length, epsilon=1e-9)
    if moved:
        copy(low, target, y.permute(order))


def _statistics(node: Node) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scale and shift of a batch normalisation, computed in float64."""
    names = ("scale", "B", "input_mean", "input_var")
    arrays: list[np.ndarray[Any, Any]] = []
    for index, name in enumerate(names, 1):
        value = node.input(index)
        if value is None or value.data is None:
            raise NoKernel(f"the input {name} is not a constant")
        arrays.append(value.data.astype(np.float64))
    scale, shift, mean, variance = arrays
    factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
    return factor, shift - mean * factor


@lowers("BatchNormalization")
def lower_batch(node: Node, low: Lowering) -> None:
    """Inference of a batch normalisation that no convolution took in: [N, C, spatial...]."""
    value, shape, dtype = _input(node)
    if node.attribute("training_mode", 0) or any(v.name for v in node.outputs[1:]):
        raise NoKernel("training mode has no native kernel")
    if value.rank < 2:
        raise NoKernel("the input has no channels")
    scale, shift = (low.constant(array.astype(dtype)) for array in _statistics(node))
    channels, inner = shape[1], product(shape[2:])
    last = inner == ONE
    spec = KernelSpec.of("scale_shift", pattern="last" if last else "middle", dtype=dtype)
    length = channels if last else inner
    low.call(
        spec,
        items=shape[0] if last else shape[0] * channels,
        cost=length // low.target.lanes(np.dtype(dtype).itemsize) + 5,
        writes="y",
        x=low.read_dense(value),
        y=low.write(node.outputs[0]),
        scale=scale,
        shift=shift,
        channels=channels,
        **({} if last else {"inner": inner}),
    )


@lowers("LRN")
def lower_local_response(node: Node, low: Lowering) -> None:
    """Local response normalisation across the channels of [N, C, spatial...]."""
    value, shape, dtype = _input(node)
    if dtype != "float32":
        raise NoKernel(f"LRN of {dtype}; its power is a float32 function")
    if value.rank < 2:
        raise NoKernel("the input has no channels")
    size = int(node.attribute("size"))
    inner = product(shape[2:])
    low.call(
        KernelSpec.of("local_response"),
        items=shape[0] * ceildiv(inner, strip_width(low.target)),
        cost=shape[1] * (size + 15),
        writes="y",
        x=low.read_dense(value),
        y=low.write(node.outputs[0]),
        channels=shape[1],
        inner=inner,
        before=(size - 1) // 2,
        after=size // 2,
        alpha=float(node.attribute("alpha", 1e-4)) / size,
        beta=float(node.attribute("beta", 0.75)),
        bias=float(node.attribute("bias", 1.0)),
    )

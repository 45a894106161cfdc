"""Slices, reshapes, pads and resizes whose sizes are measured; see `runtime_sizes`."""

from __future__ import annotations

from typing import Any

from engine.graph.ir import OURS, Node, Value
from engine.graph.passes.measuring import (
    Measuring,
    data,
    has_fixed_size,
    is_small,
    is_unknown,
    is_unknown_float,
    length,
    reshaped,
)


def measured_slice(state: Measuring, node: Node) -> None:
    """A Slice becomes a Window of measured starts, steps and lengths."""
    x = data(node)
    given = [node.input(index) for index in range(1, 5)]
    if x is None or node.version < 10 or not any(is_unknown(value) for value in given):
        return
    starts, ends, axes, _ = given
    if not has_fixed_size(x) or starts is None or ends is None or not is_small(starts):
        return
    assert x.shape is not None
    if axes is None:
        cut = list(range(length(starts)))
    elif axes.data is not None:
        cut = [int(axis) % len(x.shape) for axis in axes.data.reshape(-1)]
    else:
        cut = list(range(len(x.shape)))
    count = len(cut)
    signed = list(range(count, 2 * count))
    numbers = state.sizes(node, "slice", [x, *given], 3 * count, signed, axes=cut)
    window = Node("Window", [x, numbers], [], {"axes": cut}, OURS, 1)
    state.rewriter.substitute(node, window)


def measured_reshape(state: Measuring, node: Node) -> None:
    """A Reshape to a measured shape."""
    x, shape = data(node), node.input(1)
    if x is None or node.version < 5 or not is_unknown(shape):
        return
    assert shape is not None
    rank = length(shape)
    zero = int(node.attribute("allowzero", 0))
    sizes = state.sizes(node, "reshape", [x, shape], rank, allowzero=zero)
    state.rewriter.substitute(node, reshaped(x, sizes, []))


def measured_squeeze(state: Measuring, node: Node) -> None:
    """Squeeze and Unsqueeze of measured axes are reshapes."""
    x, axes = data(node), node.input(1)
    if x is None or node.version < 13 or not is_unknown(axes):
        return
    assert x.shape is not None
    assert axes is not None
    more = length(axes) if node.op == "Unsqueeze" else -length(axes)
    sizes = state.sizes(node, node.op.lower(), [x, axes], len(x.shape) + more)
    state.rewriter.substitute(node, reshaped(x, sizes, []))


def measured_pad(state: Measuring, node: Node) -> None:
    """A Pad of measured widths, axes or value."""
    x, pads, value, axes = data(node), node.input(1), node.input(2), node.input(3)
    if x is None or node.version < 11 or not has_fixed_size(x):
        return
    assert x.shape is not None
    inputs = list(node.inputs)
    attributes, domain = dict(node.attributes), ""
    if is_unknown(pads) or is_unknown(axes):
        if pads is None or (axes is not None and not is_small(axes)):
            return
        count = 2 * len(x.shape)
        inputs[1] = state.sizes(node, "pads", [x, pads, axes], count, list(range(count)))
        inputs[3:] = []
    if value is not None and value.data is None and is_small(value) and length(value) == 1:
        inputs[2] = state.sizes(node, "pattern", [value], 1, [0])
        domain = OURS
    if any(a is not b for a, b in zip(inputs, node.inputs, strict=False)):
        state.rewriter.substitute(node, Node("Pad", inputs, [], attributes, domain, node.version))


def measured_resize(state: Measuring, node: Node) -> None:
    """A Resize to measured sizes, scales or region."""
    x = data(node)
    modern = node.op == "Resize" and node.version >= 11
    scales, roi = node.input(2 if modern else 1), node.input(1) if modern else None
    wanted = node.input(3) if modern else None
    if x is None or not _is_resizable(node, x) or (node.op == "Upsample" and node.version < 9):
        return
    assert x.shape is not None
    axes = [int(a) % len(x.shape) for a in node.attribute("axes") or range(len(x.shape))]
    count, signed = len(axes), list(range(len(axes)))
    policy = str(node.attribute("keep_aspect_ratio_policy", "stretch"))
    sizes: Value | None = wanted
    bits: Value | None = None
    attributes = {k: v for k, v in node.attributes.items() if k != "keep_aspect_ratio_policy"}
    if wanted is not None and policy != "stretch" and _scale_is_open(x, wanted, axes):
        settings: dict[str, Any] = {"axes": axes, "policy": policy}
        sizes = state.sizes(node, "fit", [x, wanted], count, **settings)
        bits = state.sizes(node, "fit_scales", [x, wanted], count, signed, **settings)
    elif is_unknown(wanted):
        sizes = state.sizes(node, "counts", [wanted])
    elif is_unknown_float(scales):
        assert scales is not None
        if length(scales) != count:
            return
        sizes = state.sizes(node, "resize", [x, scales], count, axes=axes)
        bits = state.sizes(node, "bits", [scales], count, signed)
        # As the onnx package's reference, which is asked where scales come with the run.
        attributes["fractional"] = 1
    elif wanted is None or not is_unknown_float(roi):
        return
    if is_unknown_float(roi):
        assert roi is not None
        roi = state.sizes(node, "bits", [roi], length(roi), list(range(length(roi))))
    if not modern:
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    state.rewriter.substitute(node, Node("Resize", [x, roi, bits, sizes], [], attributes, OURS, 1))


def _scale_is_open(x: Value, wanted: Value, axes: list[int]) -> bool:
    """Whether the one scale that keeps the aspect ratio is known only to a run."""
    assert x.shape is not None
    if wanted.data is None:
        return is_unknown(wanted)
    return not all(x.shape[axis].is_constant for axis in axes)


def _is_resizable(node: Node, x: Value) -> bool:
    """Whether kernels resize the data type in the node's mode."""
    if str(node.attribute("mode", "nearest")) == "nearest":
        return has_fixed_size(x)
    return str(x.dtype) in ("float32", "float64")

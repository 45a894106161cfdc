"""Operators whose reference implementation in the onnx package is wrong, evaluated by our own.

Each entry says what is wrong there; the tests compare with onnxruntime. An entry that the package
has corrected since can go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from engine.graph.ir import AnyArray, Node
from engine.runtime.conv_transpose import conv_transpose
from engine.runtime.max_pool import max_pool
from engine.runtime.recurrent import run_recurrent

Call = Callable[[list[Any]], list[Any]]


def correction(node: Node) -> Call | None:
    """Evaluation of a standard operator in place of the reference's, None where that is right."""
    make = _CORRECTIONS.get(node.op) if not node.domain else None
    return make(node) if make is not None else None


def _global_max_pool(node: Node) -> Call:
    """The reference pools over wrong axes unless the input has four."""
    return lambda arrays: [arrays[0].max(axis=tuple(range(2, arrays[0].ndim)), keepdims=True)]


def _one_hot(node: Node) -> Call:
    """The reference refuses a depth of one element with an axis."""
    axis = int(node.attribute("axis", -1))

    def call(arrays: list[Any]) -> list[Any]:
        indices, depth, values = arrays
        size = int(np.asarray(depth).reshape(-1)[0])
        wanted = np.where(indices < 0, indices + size, indices)
        position = axis % (indices.ndim + 1)
        classes = np.arange(size).reshape(-1, *(1,) * (indices.ndim - position))
        return [np.where(np.expand_dims(wanted, position) == classes, values[1], values[0])]

    return call


def _batch_normalization(node: Node) -> Call | None:
    """Before opset 14 the reference takes a node that has a momentum to be in training mode."""
    if node.version >= 14 or any(value.name for value in node.outputs[1:]):
        return None
    epsilon = float(node.attribute("epsilon", 1e-5))

    def call(arrays: list[Any]) -> list[Any]:
        x = arrays[0]
        scale, bias, mean, variance = (a.reshape(-1, *(1,) * (x.ndim - 2)) for a in arrays[1:])
        return [(scale * (x - mean) / np.sqrt(variance + epsilon) + bias).astype(x.dtype)]

    return call


def _softmax(node: Node) -> Call | None:
    """Before opset 13 the operator flattens its input to a matrix; the reference does not."""
    if node.version >= 13:
        return None
    axis = int(node.attribute("axis", 1))

    def call(arrays: list[Any]) -> list[Any]:
        x = arrays[0]
        rows = int(np.prod(x.shape[: axis % x.ndim]))
        matrix = x.reshape(rows, -1) if x.size else x.reshape(rows, 0)
        return [_ROWS[node.op](matrix).reshape(x.shape).astype(x.dtype)]

    return call


def _softmax_rows(x: AnyArray) -> AnyArray:
    if not x.size:
        return x
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    result: AnyArray = powers / powers.sum(axis=1, keepdims=True)
    return result


def _log_softmax_rows(x: AnyArray) -> AnyArray:
    if not x.size:
        return x
    shifted = x - x.max(axis=1, keepdims=True)
    result: AnyArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _hardmax_rows(x: AnyArray) -> AnyArray:
    result = np.zeros_like(x)
    if x.size:
        result[np.arange(len(x)), x.argmax(axis=1)] = 1
    return result


_ROWS: dict[str, Callable[[AnyArray], AnyArray]] = {
    "Softmax": _softmax_rows,
    "LogSoftmax": _log_softmax_rows,
    "Hardmax": _hardmax_rows,
}


def _squeeze(node: Node) -> Call | None:
    """Before opset 13 the reference removes axes one by one, as if they were sorted."""
    axes = node.attribute("axes")
    if node.version >= 13 or axes is None:
        return None
    return lambda arrays: [np.squeeze(arrays[0], axis=tuple(axes))]


def _pad(node: Node) -> Call | None:
    """The reference refuses negative pads, which crop."""
    if node.version < 11:
        return None
    mode = str(node.attribute("mode", "constant"))

    def call(arrays: list[Any]) -> list[Any]:
        x, pads = arrays[:2]
        fill = arrays[2] if len(arrays) > 2 else None
        axes = arrays[3] if len(arrays) > 3 else None
        places = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        widths = [(0, 0)] * x.ndim
        for index, axis in enumerate(places):
            widths[axis] = (int(pads[index]), int(pads[index + len(places)]))
        kept = tuple(slice(max(-low, 0), min(high, 0) or None) for low, high in widths)
        wider = [(max(low, 0), max(high, 0)) for low, high in widths]
        if mode == "constant":
            value = x.dtype.type() if fill is None else np.asarray(fill).reshape(-1)[0]
            return [np.pad(x[kept], wider, constant_values=value)]
        return [np.pad(x[kept], wider, mode=mode)]  # type: ignore[call-overload]

    return call


def _conv_transpose(node: Node) -> Call:
    """The reference fails with groups."""

    def call(arrays: list[Any]) -> list[Any]:
        bias = arrays[2] if len(arrays) > 2 else None
        return [conv_transpose(node.attributes, arrays[0], arrays[1], bias)]

    return call


def _recurrent(node: Node) -> Call:
    """The reference ignores sequence lengths, activations and clipping."""
    return partial(run_recurrent, node.op, node.attributes)


def _optional(node: Node) -> Call:
    """The reference makes a sequence of one of its input."""
    return lambda arrays: [arrays[0] if arrays else None]


def _attention(node: Node) -> Call | None:
    """The reference gives every query the first one's causal mask where the mask has one row."""
    if not node.attribute("is_causal", 0):
        return None
    # Slow to import, and most models have no operator for it.
    from engine.runtime.operators import reference_operator

    call = reference_operator(node)

    def spread(arrays: list[Any]) -> list[Any]:
        given = list(arrays)
        mask = given[3] if len(given) > 3 else None
        if mask is not None:
            shape = (*mask.shape[:-2], given[0].shape[-2], mask.shape[-1])
            given[3] = np.broadcast_to(mask, shape)
        return list(call(given))

    return spread


def _max_pool(node: Node) -> Call:
    """The reference pads the wrong axes where strides are 1, and takes no integers."""
    return lambda arrays: max_pool(node, arrays[0])


_CORRECTIONS: dict[str, Callable[[Node], Call | None]] = {
    "Attention": _attention,
    "BatchNormalization": _batch_normalization,
    "ConvTranspose": _conv_transpose,
    "GRU": _recurrent,
    "GlobalMaxPool": _global_max_pool,
    "Hardmax": _softmax,
    "LSTM": _recurrent,
    "LogSoftmax": _softmax,
    "MaxPool": _max_pool,
    "OneHot": _one_hot,
    "Optional": _optional,
    "Pad": _pad,
    "RNN": _recurrent,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
}

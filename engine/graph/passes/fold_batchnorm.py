"""Per-channel scale and shift after a linear operator, folded into its weights.

Inference-mode BatchNormalization is ``y = a*x + c`` per channel, with ``a = scale / sqrt(variance +
epsilon)`` and ``c = bias - mean*a``; after a convolution, so is a Mul, Div, Add or Sub by a
per-channel constant (after a product these belong to the epilogue).
For a linear operator ``x = W*u + b`` (W*u its convolution or product):

    a*(W*u + b) + c = (a*W)*u + (a*b + c)

where a scales the output channels of W: axis 0 of Conv; of ConvTranspose with g groups, channel
``g_i*M + j`` at ``W[inputs of group i, j]`` with M output channels per group; the columns of Gemm's
B (rows, if it is transposed), whose ``beta*C`` is the b above.

Preconditions: weights, bias and factors are constants; the linear operator's result has no other
reader and is no output (else it would have to be computed twice). Initialisers are often shared, so
folded weights are new constants, computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.graph.ir import AnyArray, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array

_LINEAR: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_AFFINE: Final = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class _Affine:
    """``y = factor*x + shift`` per channel; arrays of one element or one per channel."""

    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


def fold_batchnorm(graph: Graph) -> PassReport:
    """Fold per-channel affine nodes into the linear operators before them."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.op in _AFFINE and not node.domain:
                reason = _fold(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: {node.op} is not folded: {reason}")
        changes += rewriter.finish()
    return PassReport("fold_batchnorm", changes, notes)


def _fold(rewriter: Rewriter, node: Node) -> str | None:
    linear, source = _linear_before(node)
    if linear is None or source is None:
        return None
    batchnorm = node.op == "BatchNormalization"
    if not batchnorm and (linear.op in ("Gemm", "MatMul") or not _has_constant(node)):
        return None
    weights = constant_array(linear.input(1))
    bias = constant_array(linear.input(2))
    if weights is None or (linear.input(2) is not None and bias is None):
        return f"weights or bias of {linear.label!r} are not constant"
    if weights.dtype.kind != "f":
        return f"weights of {linear.label!r} are {weights.dtype}"
    rank = weights.ndim
    group = int(linear.attribute("group", 1))
    if rank < 2 or group < 1 or weights.shape[0] % group:
        return f"weights of {linear.label!r} have the impossible shape {weights.shape}"
    if linear.op == "MatMul" and (rank != 2 or source.shape is None or len(source.shape) != 2):
        return "the product before it is not of two matrices"
    channels = _channels(linear, weights)
    affine = _affine(node, source, channels, rank)
    if isinstance(affine, str):
        return affine
    if any(part.shape not in ((1,), (channels,)) for part in (affine.factor, affine.shift)):
        return f"its parameters are not one per channel of {channels}"
    if bias is not None and bias.shape[-1:] not in ((), (1,), (channels,)):
        return f"the bias of {linear.label!r} has the impossible shape {bias.shape}"
    if rewriter.only_reader(source) is not node:
        return f"the result of {linear.label!r} has other readers"
    folded = _folded(rewriter, linear, weights, bias, affine, channels)
    rewriter.remove(linear)
    rewriter.substitute(node, folded)
    return None


def _linear_before(node: Node) -> tuple[Node | None, Value | None]:
    """The linear operator whose result a node transforms, and that result."""
    candidates = node.inputs[:1] if node.op in ("BatchNormalization", "Div", "Sub") else node.inputs
    for value in candidates:
        producer = value.producer if value is not None else None
        if producer is not None and producer.op in _LINEAR and not producer.domain:
            return producer, value
    return None, None


def _has_constant(node: Node) -> bool:
    return any(value is not None and value.is_constant for value in node.inputs)


def _channels(linear: Node, weights: AnyArray) -> int:
    if linear.op == "ConvTranspose":
        return int(weights.shape[1]) * int(linear.attribute("group", 1))
    if linear.op == "Conv" or linear.attribute("transB", 0):
        return int(weights.shape[0])
    return int(weights.shape[1])


def _affine(node: Node, source: Value, channels: int, rank: int) -> _Affine | str:
    if node.op == "BatchNormalization":
        return _batchnorm(node)
    other = node.inputs[1] if node.inputs[0] is source else node.inputs[0]
    constant = constant_array(other)
    assert constant is not None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    per_channel = (1, channels) + (1,) * (rank - 2)
    if constant.ndim > rank or any(
        s not in (1, c) for s, c in zip(shape, per_channel, strict=True)
    ):
        return f"its constant of shape {constant.shape} is not one value per channel"
    data = constant.astype(np.float64).reshape(-1)
    one, zero = np.ones(1), np.zeros(1)
    if node.op == "Mul":
        return _Affine(data, zero)
    if node.op == "Div":
        if not np.all(data):
            return "its divisor has a zero"
        return _Affine(1.0 / data, zero)
    return _Affine(one, data if node.op == "Add" else -data)


def _batchnorm(node: Node) -> _Affine | str:
    if node.attribute("training_mode", 0) or any(value.name for value in node.outputs[1:]):
        return "it runs in training mode"
    if node.version < 9 and not node.attribute("spatial", 1):
        return "its statistics are per element, not per channel"
    arrays = [constant_array(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return "its parameters are not constant"
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
        shift = bias - mean * factor
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(shift))):
        return "its parameters are not finite"
    return _Affine(factor, shift)


def _folded(
    rewriter: Rewriter,
    linear: Node,
    weights: AnyArray,
    bias: AnyArray | None,
    affine: _Affine,
    channels: int,
) -> Node:
    """The linear operator with the affine map in its weights and bias."""
    attributes: dict[str, Any] = dict(linear.attributes)
    factor = np.broadcast_to(affine.factor, (channels,))
    old_bias = np.zeros(1) if bias is None else bias.astype(np.float64)
    if linear.op == "Gemm":
        old_bias = old_bias * float(attributes.pop("beta", 1.0))
    with np.errstate(all="ignore"):
        new_bias = (old_bias * factor + affine.shift).astype(weights.dtype)
        wide = weights.astype(np.float64) * _along_weights(linear, weights, factor)
        scaled = wide.astype(weights.dtype)
    base = linear.inputs[1].name if linear.inputs[1] is not None else linear.label
    inputs: list[Value | None] = [
        linear.inputs[0],
        rewriter.constant(f"{base}_folded", scaled),
        rewriter.constant(f"{base}_folded_bias", new_bias),
    ]
    if linear.op == "MatMul":
        return Node("Gemm", inputs, [], {}, version=13, name=linear.name)
    return Node(linear.op, inputs, [], attributes, version=linear.version, name=linear.name)


def _along_weights(
    linear: Node, weights: AnyArray, factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Factor per output channel, shaped to multiply the weights."""
    if linear.op == "Conv":
        return factor.reshape(-1, *(1,) * (weights.ndim - 1))
    if linear.op == "ConvTranspose":
        groups = int(linear.attribute("group", 1))
        per_group = factor.reshape(groups, -1)
        rows = np.repeat(per_group, weights.shape[0] // groups, axis=0)
        return rows.reshape(*rows.shape, *(1,) * (weights.ndim - 2))
    if linear.attribute("transB", 0):
        return factor.reshape(-1, 1)
    return factor.reshape(1, -1)

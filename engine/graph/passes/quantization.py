"""Quantisation written as the arithmetic that it is.

For scale s, zero point z and an integer type with range [low, high] (ONNX QuantizeLinear-23,
DequantizeLinear-23; rounding is half to even):

- ``QuantizeLinear(x) = cast(q(x))`` with ``q(x) = clip(round(x / s) + z, low, high)`` in float32
- ``DequantizeLinear(q) = (q - z) * s``

Integers of up to 16 bits are exact in float32. So where dequantisation alone reads a quantised
tensor, the casts cancel and the tensor never exists: ``(q(x) - z) * s`` is a handful of float
operations that later passes fuse into what produced x. Scales per axis become constants of the
shape that broadcasts.

Preconditions: float32 outside, constant scale and zero point, no blocks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import helper

from engine.graph.ir import AnyArray, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array

_EXACT: Final = ("uint8", "int8", "uint16", "int16")
_VERSION: Final = 14


def quantization(graph: Graph) -> PassReport:
    """Rewrite both operators in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        floats: dict[int, Value] = {}
        for node in rewriter.nodes():
            if node.domain or node.op not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            quantise = node.op == "QuantizeLinear"
            parameters = _parameters(node, node.outputs[0] if quantise else node.inputs[0])
            if isinstance(parameters, str):
                notes.append(f"{node.label}: {node.op} stays: {parameters}")
            elif quantise:
                _quantize(rewriter, node, *parameters, floats)
            else:
                _dequantize(rewriter, node, *parameters, floats)
        changes += rewriter.finish()
    return PassReport("quantization", changes, notes)


def _parameters(node: Node, integers: Value | None) -> tuple[AnyArray, AnyArray] | str:
    """Scale and zero point in shapes that broadcast, or why they are not known."""
    x, scale = node.inputs[0], constant_array(node.input(1))
    if scale is None:
        return "its scale is not constant"
    zero = constant_array(node.input(2))
    if zero is None:
        if node.input(2) is not None:
            return "its zero point is not constant"
        zero = np.zeros_like(scale)
    real = x if node.op == "QuantizeLinear" else node.outputs[0]
    if scale.dtype != np.float32 or real is None or real.dtype != np.float32:
        return "it is not between float32 and integers"
    if node.attribute("block_size", 0):
        return "it has blocks"
    if integers is None or integers.dtype is None or integers.dtype.name not in (*_EXACT, "int32"):
        return f"there is no arithmetic for {integers.dtype if integers else None}"
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(())
    if x is None or x.shape is None or scale.ndim != 1:
        return "the rank of its input is unknown"
    axis = int(node.attribute("axis", 1)) % x.rank
    shape = (scale.size,) + (1,) * (x.rank - axis - 1)
    return scale.reshape(shape), zero.reshape(shape)


class _Chain:
    """Emits operators before `anchor`, each on the result of the one before."""

    def __init__(self, rewriter: Rewriter, anchor: Node, value: Value) -> None:
        self.rewriter = rewriter
        self.anchor = anchor
        self.value = value

    def add(self, op: str, *constants: AnyArray, **attributes: Any) -> None:
        """Append ``op(value, *constants)``."""
        node = self.node(op, *constants, **attributes)
        out = self.rewriter.value(f"{self.anchor.outputs[0].name}.{op.lower()}")
        out.dtype, out.shape = np.dtype(np.float32), self.value.shape
        node.outputs = [out]
        self.rewriter.insert(self.anchor, node)
        self.value = out

    def node(self, op: str, *constants: AnyArray, **attributes: Any) -> Node:
        """The operator without outputs."""
        inputs: list[Value | None] = [self.value]
        inputs += [self.rewriter.constant(f"{op.lower()}.constant", c) for c in constants]
        return Node(op, inputs, [], attributes, version=_VERSION)


def _quantize(
    rewriter: Rewriter, node: Node, scale: AnyArray, zero: AnyArray, floats: dict[int, Value]
) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    assert result.dtype is not None
    chain = _Chain(rewriter, node, x)
    chain.add("Div", scale)
    chain.add("Round")
    if zero.any():
        chain.add("Add", zero.astype(np.float32))
    info = np.iinfo(result.dtype)
    chain.add("Clip", np.array(info.min, np.float32), np.array(info.max, np.float32))
    floats[id(result)] = chain.value
    kind = int(helper.np_dtype_to_tensor_dtype(result.dtype))
    rewriter.substitute(node, chain.node("Cast", to=kind))


def _dequantize(
    rewriter: Rewriter, node: Node, scale: AnyArray, zero: AnyArray, floats: dict[int, Value]
) -> None:
    x = node.inputs[0]
    assert x is not None
    chain = _Chain(rewriter, node, floats.get(id(x), x))
    if id(x) not in floats:
        chain.add("Cast", to=int(helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))))
    if zero.any():
        chain.add("Sub", zero.astype(np.float32))
    rewriter.substitute(node, chain.node("Mul", scale))

"""Quantisation written as the arithmetic that it is.

For scale s, zero point z and an integer type with range [low, high] (ONNX QuantizeLinear-23,
DequantizeLinear-23; rounding is half to even):

- ``QuantizeLinear(x) = cast(q(x))`` with ``q(x) = clip(round(x / s) + z, low, high)`` in float32
- ``DequantizeLinear(q) = (q - z) * s``

Integers of up to 16 bits are exact in float32. So where dequantisation alone reads a quantised
tensor, the casts cancel and the tensor never exists: ``(q(x) - z) * s`` is a handful of float
operations that later passes fuse into what produced x. Products of integers go the same way
(`integer_products`). Scales per axis become constants of the
shape that broadcasts; a scale that is computed (dynamic quantisation) must be a single one.

Preconditions: float32 outside, no blocks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import helper

from engine.graph.body import Body, Unsupported
from engine.graph.dims import Dim
from engine.graph.inference.walk import infer_node, start
from engine.graph.ir import AnyArray, Graph, Node, Value
from engine.graph.passes.integer_products import PRODUCTS, expand_product
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_array

_EXACT: Final = ("uint8", "int8", "uint16", "int16")
_FLOAT: Final = int(helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)))
_VERSION: Final = 14


def quantization(graph: Graph) -> PassReport:
    """Rewrite both operators, and products of integers, in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        floats: dict[int, Value] = {}
        for node in rewriter.nodes():
            if not node.domain and node.op in PRODUCTS:
                reason = _product(rewriter, node, graph, floats)
                if reason is not None:
                    notes.append(f"{node.label}: {node.op} stays: {reason}")
            if node.domain or node.op not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            parameters = arithmetic(node)
            if isinstance(parameters, str):
                notes.append(f"{node.label}: {node.op} stays: {parameters}")
            elif node.op == "QuantizeLinear":
                _quantize(rewriter, node, *parameters, floats)
            else:
                _dequantize(rewriter, node, *parameters, floats)
        changes += rewriter.finish()
    return PassReport("quantization", changes, notes)


def _product(rewriter: Rewriter, node: Node, graph: Graph, floats: dict[int, Value]) -> str | None:
    """Rewrite a product of integers; the reason where it stays."""
    state = start(graph)
    body = Body(node, rewriter.names, lambda made: infer_node(made, state, None))
    try:
        exact = expand_product(body, floats)
        rewriter.replace(node, body.finish())
    except Unsupported as verdict:
        return str(verdict)
    if exact is not None:
        floats[id(node.outputs[0])] = exact
    return None


_Operand = AnyArray | Value


def arithmetic(node: Node) -> tuple[_Operand, _Operand] | str:
    """Scale and zero point in shapes that broadcast, or why there is no arithmetic for a node."""
    x, given, offset = node.inputs[0], node.input(1), node.input(2)
    real, integers = x, node.outputs[0]
    if node.op == "DequantizeLinear":
        real, integers = node.outputs[0], x  # type: ignore[assignment]
    if given is None or given.dtype != np.float32 or real is None or real.dtype != np.float32:
        return "it is not between float32 and integers"
    if node.attribute("block_size", 0):
        return "it has blocks"
    if integers is None or integers.dtype is None or integers.dtype.name not in (*_EXACT, "int32"):
        return f"there is no arithmetic for {integers.dtype if integers else None}"
    scale, zero = constant_array(given), constant_array(offset)
    if scale is None or (zero is None and offset is not None):
        for value in (given, offset):
            if value is not None and not _is_single(value, x):
                return f"{value.name} is computed and not a single number"
        single = np.zeros((), np.float32) if offset is None else offset
        return given, single if zero is None else zero.reshape(())
    if zero is None:
        zero = np.zeros_like(scale)
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(())
    if x is None or x.shape is None or scale.ndim != 1:
        return "the rank of its input is unknown"
    axis = int(node.attribute("axis", 1)) % x.rank
    shape = (scale.size,) + (1,) * (x.rank - axis - 1)
    return scale.reshape(shape), zero.reshape(shape)


def _is_single(value: Value, x: Value | None) -> bool:
    """Whether a value is one number that leaves the shape of `x` as it is."""
    if value.shape is None or x is None or x.shape is None:
        return False
    return all(dim == Dim.of(1) for dim in value.shape) and value.rank <= x.rank


class _Chain:
    """Emits operators before `anchor`, each on the result of the one before."""

    def __init__(self, rewriter: Rewriter, anchor: Node, value: Value) -> None:
        self.rewriter = rewriter
        self.anchor = anchor
        self.value = value

    def add(self, op: str, *operands: _Operand, **attributes: Any) -> None:
        """Append ``op(value, *operands)``."""
        node = self.node(op, *operands, **attributes)
        out = self.rewriter.value(f"{self.anchor.outputs[0].name}.{op.lower()}")
        out.dtype, out.shape = np.dtype(np.float32), self.value.shape
        node.outputs = [out]
        self.rewriter.insert(self.anchor, node)
        self.value = out

    def offset(self, op: str, zero: _Operand) -> None:
        """Append the addition or subtraction of a zero point."""
        if isinstance(zero, np.ndarray):
            if zero.any():
                self.add(op, zero.astype(np.float32))
            return
        real = self.rewriter.value(f"{zero.name}.float")
        real.dtype, real.shape = np.dtype(np.float32), zero.shape
        cast = Node("Cast", [zero], [real], {"to": _FLOAT}, version=_VERSION)
        self.rewriter.insert(self.anchor, cast)
        self.add(op, real)

    def node(self, op: str, *operands: _Operand, **attributes: Any) -> Node:
        """The operator without outputs."""
        inputs: list[Value | None] = [self.value]
        for operand in operands:
            if isinstance(operand, np.ndarray):
                operand = self.rewriter.constant(f"{op.lower()}.constant", operand)
            inputs.append(operand)
        return Node(op, inputs, [], attributes, version=_VERSION)


def _quantize(
    rewriter: Rewriter, node: Node, scale: _Operand, zero: _Operand, floats: dict[int, Value]
) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    assert result.dtype is not None
    chain = _Chain(rewriter, node, x)
    chain.add("Div", scale)
    chain.add("Round")
    chain.offset("Add", zero)
    info = np.iinfo(result.dtype)
    chain.add("Clip", np.array(info.min, np.float32), np.array(info.max, np.float32))
    floats[id(result)] = chain.value
    kind = int(helper.np_dtype_to_tensor_dtype(result.dtype))
    rewriter.substitute(node, chain.node("Cast", to=kind))


def _dequantize(
    rewriter: Rewriter, node: Node, scale: _Operand, zero: _Operand, floats: dict[int, Value]
) -> None:
    x = node.inputs[0]
    assert x is not None
    chain = _Chain(rewriter, node, floats.get(id(x), x))
    if id(x) not in floats:
        chain.add("Cast", to=_FLOAT)
    chain.offset("Sub", zero)
    rewriter.substitute(node, chain.node("Mul", scale))

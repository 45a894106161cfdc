"""Rules of element-wise operators: broadcasting, and arithmetic on known elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.graph.inference.arithmetic import binary, comparison, convert, select, unary
from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.elements import Elements, combine
from engine.graph.inference.registry import rule
from engine.graph.tensors import data_type

_FIRST_BROADCASTING: Final = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "PRelu"), 7),
    **dict.fromkeys(("And", "Or", "Xor", "Equal", "Less", "Greater"), 7),
    **dict.fromkeys(("Max", "Min", "Sum", "Mean"), 8),
}
"""Opset since which an operator broadcasts as numpy does; before, input 0 gives the shape."""


def _broadcast_shape(node: Inference) -> None:
    if node.version < _FIRST_BROADCASTING.get(node.node.op, 0):
        node.same_shape()
    else:
        node.output(0, node.broadcast([node.shape(i) for i in range(len(node.node.inputs))]))


def _known_operands(node: Inference) -> list[Elements] | None:
    """Elements of all inputs; None unless each has some that are known."""
    operands = []
    for value in node.present():
        found = node.state.known(value)
        if found is None or value.shape is None:
            return None
        operands.append(found)
    return operands


def _fold(node: Inference, function: Callable[[Any, Any], Any]) -> None:
    """Elements of a function applied from the first input to the last."""
    dtype = node.node.outputs[0].dtype
    if dtype is None or (dtype.kind != "b" and (dtype.itemsize < 4 or dtype.kind not in "if")):
        return  # narrow types round, narrow and unsigned ones wrap around; dim expressions do not
    operands = _known_operands(node)
    if operands:
        found = operands[0]
        for operand in operands[1:]:
            found = combine(function, found, operand)
        node.output(0, elements=found)


def _map(node: Inference, function: Callable[[Any], Any]) -> None:
    found = node.state.known(node.value(0))
    if found is not None:
        node.output(0, elements=combine(function, found))


@rule("Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Pow", "Sub", "Sum")
def _arithmetic(node: Inference) -> None:
    _broadcast_shape(node)
    if node.node.op == "Mod" and node.attribute("fmod", 0):
        return
    _fold(node, binary(node.node.op))


@rule("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor")
def _compare(node: Inference) -> None:
    _broadcast_shape(node)
    _fold(node, comparison(node.node.op))


@rule("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "StringConcat", "SwiGLU")
def _broadcasting(node: Inference) -> None:
    _broadcast_shape(node)


@rule("PRelu")
def _parametric_relu(node: Inference) -> None:
    node.same_shape()
    if node.version >= 7:
        if len(node.shape(1)) > len(node.shape(0)):
            node.error("the slope has more axes than the input")
        node.broadcast([node.shape(0), node.shape(1)])


@rule("Where")
def _where(node: Inference) -> None:
    node.output(0, node.broadcast([node.shape(index) for index in range(3)]))
    condition = node.state.known(node.value(0))
    if condition is None:
        return
    first, second = (node.state.known(node.value(index)) for index in (1, 2))
    if first is None or second is None:
        return
    # The element not taken may be unknown, so this is no `combine` of all three.
    arrays = np.broadcast_arrays(condition, first, second)
    found = np.empty(arrays[0].shape, object)
    flat = found.reshape(-1)
    columns = (array.reshape(-1) for array in arrays)
    for index, (test, then, otherwise) in enumerate(zip(*columns, strict=True)):
        same = then is otherwise or (then is not None and then == otherwise)
        flat[index] = then if same else None if test is None else select(test, then, otherwise)
    node.output(0, elements=found)


_UNARY: Final = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu"),
    *("Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf"),
    *("IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu"),
)


@rule(*_UNARY)
def _unary_operator(node: Inference) -> None:
    node.same_shape()
    _map(node, unary(node.node.op))


@rule("Clip")
def _clip(node: Inference) -> None:
    node.same_shape()
    found = node.state.known(node.value(0))
    if found is None or node.version < 11:
        return
    for index, op in ((1, "Max"), (2, "Min")):
        if node.has(index):
            bound = node.state.known(node.value(index))
            if bound is None:
                return
            found = combine(binary(op), found, bound)
    node.output(0, elements=found)


@rule("Cast")
def _cast(node: Inference) -> None:
    target = node.attribute("to")
    if isinstance(target, str):
        raise Unknown
    dtype = data_type(target, f"node {node.node.label!r} (Cast): attribute 'to'")
    node.output(0, dtype=dtype)
    node.same_shape()
    _map(node, lambda item: convert(item, dtype))


@rule("CastLike")
def _cast_like(node: Inference) -> None:
    dtype = node.dtype(1)
    node.output(0, node.shape(0), dtype)
    _map(node, lambda item: convert(item, dtype))


@rule("BitCast")
def _bit_cast(node: Inference) -> None:
    dtype = data_type(node.attribute("to"), f"node {node.node.label!r} (BitCast): attribute 'to'")
    node.output(0, node.shape(0), dtype)


@rule("Bernoulli")
def _bernoulli(node: Inference) -> None:
    declared = node.attribute("dtype")
    node.output(0, dtype=data_type(declared, "dtype") if declared else node.dtype(0))
    node.same_shape()


@rule("CumProd", "CumSum", "EyeLike", "Trilu")
def _same_shape(node: Inference) -> None:
    if node.node.op == "EyeLike":
        declared = node.attribute("dtype")
        node.output(0, dtype=data_type(declared, "dtype") if declared else node.dtype(0))
    node.same_shape()

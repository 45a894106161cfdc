"""Rules of batching: element-wise operators, quantisation and reductions."""

from __future__ import annotations

from typing import Final

from engine.graph.batching.rows import (
    Refusal,
    Result,
    Rows,
    aligned_distance,
    constants_of,
    data_axis,
    positive,
    rank_of,
    rule,
    shape_of,
)
from engine.graph.ir import Node

_ELEMENTWISE: Final = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitCast"),
    *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor"),
    *("Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
    *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod"),
    *("Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Reciprocal", "RegexFullMatch", "Relu", "Round"),
    *("Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt"),
    *("StringConcat", "Sub", "Sum", "SwiGLU", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("Where", "Xor"),
)


@rule(*_ELEMENTWISE)
def elementwise(node: Node, rows: Rows) -> Result:
    """Rows stay where broadcasting puts them."""
    if node.op != "CastLike" and node.attribute("axis") is None:
        return rank_of(node.outputs[0]) - aligned_distance(node, rows, node.inputs)
    # CastLike, and the old broadcasting from an axis on: input 0 gives the shape.
    return data_axis(node, rows)


@rule("Dropout")
def _dropout(node: Node, rows: Rows) -> Result:
    if node.version >= 12 and node.input(2) is not None and constants_of(node.input(2)) != [0]:
        raise Refusal("may drop at random")
    return data_axis(node, rows)


@rule("QuantizeLinear", "DequantizeLinear")
def _quantise(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    scale = shape_of(node.input(1))
    along = positive(node.attribute("axis", 1), rank_of(node.input(0)))
    if len(scale) == 1 and scale[0] != 1 and along == axis:
        raise Refusal("scales along the batch")
    if len(scale) > 1 and scale[axis] != 1:
        raise Refusal("scales along the batch in blocks")
    return axis


_REDUCTIONS: Final = (
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@rule(*_REDUCTIONS)
def _reduce(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    rank = rank_of(node.input(0))
    if node.op.startswith("Arg"):
        axes = [node.attribute("axis", 0)]
    else:
        axes = node.attribute("axes") or []
        if node.input(1) is not None:
            known = constants_of(node.input(1))
            if known is None:
                raise Refusal("has axes that are not known")
            axes = known
        if not axes and not node.attribute("noop_with_empty_axes", 0):
            axes = list(range(rank))
    reduced = {positive(item, rank) for item in axes}
    if axis in reduced:
        raise Refusal("reduces over the batch")
    if node.attribute("keepdims", 1):
        return axis
    return axis - sum(item < axis for item in reduced)

"""A model for every lowering, whose rows do not meet: what every native operator must keep.

`EXAMPLES` maps the registry's keys to models with open axes: ``n`` rows, which the operator treats
one by one, and ``w``. A new lowering needs an example here; `test_every_lowering` says what for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.engine.plan.lower.example import (
    IMAGE,
    PAIR,
    TRUTHS,
    WHOLE,
    Example,
    X,
    booleans,
    integers,
    ints,
    normal,
    one,
    positive,
    weights,
)
from tests.engine.plan.lower.fused_examples import FUSED


def _body() -> onnx.GraphProto:
    """Of a Loop: the state becomes its hyperbolic tangent plus x."""
    nodes = [
        helper.make_node("Identity", ["going"], ["on"]),
        helper.make_node("Tanh", ["state"], ["bent"]),
        helper.make_node("Add", ["bent", "x"], ["next"]),
    ]
    inputs = [
        helper.make_tensor_value_info("trip", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in ("on", "next")]
    return helper.make_graph(nodes, "body", inputs, results)


def _branch(name: str, op: str) -> onnx.GraphProto:
    node = helper.make_node(op, ["x"], [name])
    return helper.make_graph([node], name, [], [helper.make_empty_tensor_value_info(name)])


EXAMPLES: dict[str, Example] = {}

for _op in (
    "Acos", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh",
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu",
):  # fmt: skip
    EXAMPLES[_op] = one(_op, X)
for _op in ("Acosh", "Log", "Sqrt"):
    EXAMPLES[_op] = one(_op, {"x": positive("n", "w", 5)})
for _op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "PRelu", "Greater",
            "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):  # fmt: skip
    EXAMPLES[_op] = one(_op, PAIR)
for _op in ("And", "Or", "Xor"):
    EXAMPLES[_op] = one(_op, TRUTHS)
for _op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    EXAMPLES[_op] = one(_op, WHOLE)
for _op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
            "ReduceSum", "ReduceSumSquare", "ReduceLogSumExp"):  # fmt: skip
    EXAMPLES[_op] = one(_op, {"x": normal("n", "w", 5, scale=1)}, constants={"axes": ints(-1)})
EXAMPLES["ReduceLogSum"] = one(
    "ReduceLogSum", {"x": positive("n", "w", 5)}, constants={"axes": ints(1)}, zero=("n",)
)
for _op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    EXAMPLES[_op] = one(_op, IMAGE, zero=("n",))
for _op in ("MaxPool", "AveragePool", "LpPool"):
    EXAMPLES[_op] = one(_op, IMAGE, kernel_shape=[1, 3], strides=[1, 2], opset=18, zero=("n",))
for _op, _count in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    EXAMPLES[_op] = one(
        _op,
        {"x": normal("n", 4, 6)},
        constants={"w": weights(1, 8 * _count, 6) / 2, "r": weights(1, 8 * _count, 8) / 3},
        hidden_size=8,
        layout=1,
        zero=(),
    )

EXAMPLES |= {
    "packhorse.Bytes": Example(
        [
            helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E4M3FN),
            helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
        ],
        X,
    ),
    "ArgMax": one("ArgMax", X, axis=2),
    "ArgMin": one("ArgMin", X, axis=1, zero=("n",)),
    "BatchNormalization": one(
        "BatchNormalization",
        IMAGE,
        constants={"s": weights(5), "b": weights(5), "m": weights(5), "v": weights(5) ** 2},
    ),
    "BitCast": one("BitCast", X, to=TensorProto.INT32, opset=26),
    "BitShift": one(
        "BitShift",
        {
            "a": integers("n", "w", 5, dtype=np.uint32),
            "b": integers("w", 1, high=9, dtype=np.uint32),
        },
        direction="LEFT",
    ),
    "BitwiseNot": one("BitwiseNot", {"x": integers("n", "w", 5)}),
    "DFT": one(
        "DFT",
        {"x": normal("n", "w", 72, 2)},
        "x",
        "",
        "axis",
        constants={"axis": np.array(2)},
    ),
    "STFT": one(
        "STFT",
        {"x": normal("n", 90, 1)},
        "x",
        "step",
        "",
        "length",
        constants={"step": np.array(7), "length": np.array(80)},
        zero=("n",),
    ),
    "Cast": one("Cast", X, to=TensorProto.INT64),
    "CastLike": one("CastLike", X | {"b": integers("w")}, opset=19),
    "Clip": one("Clip", X, constants={"low": np.float32(-1), "high": np.float32(1.5)}),
    "Concat": one("Concat", X | {"z": normal("n", "w", 3)}, axis=2),
    "ConstantOfShape": Example(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["y"]),
        ],
        X,
    ),
    "CumSum": one("CumSum", X, constants={"axis": np.array(1)}),
    "Col2Im": one(
        "Col2Im",
        {"x": normal("n", 8, 12)},
        constants={"image": ints(4, 5), "block": ints(2, 2)},
        zero=("n",),
    ),
    "DepthToSpace": one("DepthToSpace", {"x": normal("n", 8, "w", 3)}, blocksize=2),
    "Det": one("Det", {"x": normal("n", "w", 3, 3)}),
    "Expand": one("Expand", {"x": normal("n", 1, 5)}, constants={"s": ints(1, 4, 5)}),
    "EyeLike": one("EyeLike", {"x": normal("n", "w")}, rows=False),
    "Flatten": one("Flatten", IMAGE),
    "Gather": one("Gather", {"x": normal(9, 5), "i": integers("n", "w", high=9)}),
    "GatherElements": one("GatherElements", X | {"i": integers("n", "w", 3, high=5)}, axis=2),
    "GatherND": one("GatherND", X | {"i": integers("n", "w", 3, 1, high=5)}, batch_dims=2),
    "Gemm": one(
        "Gemm",
        {"x": normal("n", 20)},
        constants={"w": weights(20, 9), "b": weights(9)},
        zero=("n",),
    ),
    "GroupNormalization": one(
        "GroupNormalization",
        {"x": normal("n", 6, "w", 3)},
        constants={"s": weights(6), "b": weights(6)},
        num_groups=2,
        zero=(),
    ),
    "InstanceNormalization": one(
        "InstanceNormalization", IMAGE, constants={"s": weights(5), "b": weights(5)}, zero=("n",)
    ),
    "LRN": one("LRN", IMAGE, size=3),
    "LayerNormalization": one("LayerNormalization", X, constants={"s": weights(5)}),
    "LogSoftmax": one("LogSoftmax", X, axis=2),
    "Loop": one("Loop", X, "trips", "", "x", constants={"trips": np.array(3)}, body=_body()),
    "LpNormalization": one("LpNormalization", X, axis=2, p=2),
    "MatMul": one("MatMul", {"a": normal("n", "w", 12)}, constants={"b": weights(12, 17)}),
    "MeanVarianceNormalization": one("MeanVarianceNormalization", IMAGE, axes=[2, 3], zero=("n",)),
    "MaxUnpool": one(
        "MaxUnpool",
        {"x": normal("n", 2, 3, "w"), "i": integers("n", 2, 3, "w", high=9)},
        kernel_shape=[2, 2],
        strides=[2, 2],
        rows=False,
        zero=(),
    ),
    "Mod": one("Mod", WHOLE),
    "Not": one("Not", {"x": booleans("n", "w", 5)}),
    "OneHot": one(
        "OneHot",
        {"i": integers("n", "w", high=6)},
        constants={"depth": np.array(6), "values": np.array([0, 1], np.float32)},
    ),
    "Pad": one("Pad", X, constants={"pads": ints(0, 1, 2, 0, 0, 1)}),
    "Pow": one("Pow", {"a": positive("n", "w", 5), "b": normal("w", 1)}),
    "RMSNormalization": one("RMSNormalization", X, constants={"s": weights(5)}, opset=23),
    "SimplifiedLayerNormalization": one(
        "SimplifiedLayerNormalization", X, constants={"s": weights(5)}
    ),
    "Range": Example(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "one"], ["size"]),
            helper.make_node("Range", ["start", "size", "step"], ["y"]),
        ],
        X,
        {"one": np.array(1), "start": np.array(0), "step": np.array(2)},
        rows=False,
    ),
    "Reshape": one("Reshape", {"x": normal("n", "w", 6)}, constants={"s": ints(0, 0, 2, 3)}),
    "Resize": one(
        "Resize",
        IMAGE,
        "x",
        "",
        "scales",
        constants={"scales": np.array([1, 1, 2, 1.5], np.float32)},
        mode="linear",
    ),
    "ReverseSequence": Example(
        [helper.make_node("ReverseSequence", ["x", "lens"], ["y"], batch_axis=0, time_axis=1)],
        {"x": normal("n", "w", 5), "lens": integers("n", low=1, high="w")},
        zero=("n",),
    ),
    "Scatter": Example(
        [helper.make_node("Scatter", ["x", "i", "u"], ["y"], axis=2)],
        {"x": normal("n", "w", 5), "i": integers("n", "w", 1, high=5), "u": normal("n", "w", 1)},
        opset=10,
    ),
    "ScatterElements": one(
        "ScatterElements",
        {"x": normal("n", "w", 5), "i": integers("n", "w", 3, high=5), "u": normal("n", "w", 3)},
        axis=2,
        reduction="max",
    ),
    "ScatterND": one(
        "ScatterND",
        {"x": normal(7, 5), "i": integers("w", 1, high=7), "u": normal("w", 5)},
        reduction="add",
        rows=False,
    ),
    "Slice": one(
        "Slice",
        X,
        constants={"from": ints(3), "to": ints(-9), "axes": ints(2), "step": ints(-1)},
    ),
    "Softmax": one("Softmax", X, axis=2),
    "SpaceToDepth": one("SpaceToDepth", {"x": normal("n", 3, 4, 6)}, blocksize=2, zero=("n",)),
    "Split": one("Split", X, constants={"sizes": ints(2, 3)}, axis=2, outputs=("y", "z")),
    "Squeeze": one("Squeeze", {"x": normal("n", 1, "w")}, constants={"axes": ints(1)}),
    "Swish": one("Swish", X, alpha=1.5, opset=24),
    "TensorScatter": one(
        "TensorScatter",
        {"x": normal("n", 2, 8, "w"), "u": normal("n", 2, 3, "w"), "i": integers("n", high=6)},
        opset=24,
    ),
    "Tile": one("Tile", X, constants={"repeats": ints(1, 2, 3)}),
    "TopK": one("TopK", X, constants={"k": ints(3)}, outputs=("y", "z")),
    "Transpose": one("Transpose", X, perm=[0, 2, 1]),
    "Trilu": one("Trilu", X),
    "Unsqueeze": one("Unsqueeze", X, constants={"axes": ints(1)}),
    "Upsample": one(
        "Upsample",
        IMAGE,
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
        mode="nearest",
        opset=9,
    ),
    "Where": one("Where", {"c": booleans("n", "w", 5), "a": normal("w", 1), "b": normal(5)}),
    "CumProd": one("CumProd", X, constants={"axis": np.array(1)}, opset=26),
    "GridSample": one(
        "GridSample",
        {"x": normal("n", 3, 5, "w"), "grid": normal("n", 4, 3, 2, scale=0.8)},
        padding_mode="border",
        opset=20,
        zero=("n",),
    ),
    "If": Example(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["width"]),
            helper.make_node("Greater", ["width", "four"], ["wide"]),
            helper.make_node(
                "If",
                ["wide"],
                ["y"],
                then_branch=_branch("t", "Tanh"),
                else_branch=_branch("e", "Neg"),
            ),
        ],
        X,
        {"one": np.array(1), "four": np.array(4)},
    ),
}

EXAMPLES |= FUSED

UNREACHED: Final = {
    "packhorse.Assume": "follows an If of branches of different rank; test_branch has one",
    "packhorse.GlobalLpPool": "no pass makes it; tests of pooling lower it directly",
    "packhorse.Silu": "fused before it is lowered; tests of element-wise operators lower it",
}
"""Lowerings that no model reaches, and where they are tested instead."""

REWRITTEN: Final = {
    "AveragePool": "packhorse.AveragePool",
    "Flatten": "Reshape",
    "Gemm": "packhorse.MatMul",
    "GlobalAveragePool": "packhorse.GlobalAveragePool",
    "GlobalMaxPool": "packhorse.GlobalMaxPool",
    "LpPool": "packhorse.LpPool",
    "MaxPool": "packhorse.MaxPool",
    "Scatter": "ScatterElements",
    "SimplifiedLayerNormalization": "RMSNormalization",
    "Squeeze": "Reshape",
    "Sum": "Add",
    "Unsqueeze": "Reshape",
    "Upsample": "Resize",
    "packhorse.Conv": "packhorse.PlaneConv",
}
"""Operators that passes turn into others, at least in their examples: the keys that are lowered."""

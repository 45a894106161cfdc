"""A model for every lowering, whose rows do not meet: what every native operator must keep.

`EXAMPLES` maps the registry's keys to models with open axes: ``n`` rows, which the operator treats
one by one, and ``w``. A new lowering needs an example here; `test_every_lowering` says what for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import trees

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Input:
    """A graph input: its sizes (``"n"`` and ``"w"`` are open) and how its values are drawn."""

    shape: tuple[int | str, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...], Sizes], Array]

    def array(self, sizes: Sizes, seed: int) -> Array:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)
        return np.ascontiguousarray(self.draw(np.random.default_rng(seed), shape, sizes))


def normal(*shape: int | str, dtype: Any = np.float32, scale: float = 2) -> Input:
    return Input(shape, lambda rng, s, _: (rng.standard_normal(s) * scale).astype(dtype))


def positive(*shape: int | str) -> Input:
    return Input(shape, lambda rng, s, _: (rng.random(s) * 3 + 0.1).astype(np.float32))


def integers(*shape: int | str, high: int | str = 40, low: int = 0, dtype: Any = np.int64) -> Input:
    """Integers from `low` up to below `high`, or below the size that it names."""

    def draw(rng: np.random.Generator, s: tuple[int, ...], sizes: Sizes) -> Array:
        top = sizes[high] if isinstance(high, str) else high
        return rng.integers(low, max(top, low + 1), s).astype(dtype)

    return Input(shape, draw)


def given(array: Array) -> Input:
    """An input that has always the same values."""
    return Input(array.shape, lambda rng, s, _: array)


def booleans(*shape: int | str) -> Input:
    return Input(shape, lambda rng, s, _: rng.random(s) < 0.5)


@dataclass(frozen=True)
class Example:
    """Nodes over inputs and constants, and the outputs to look at.

    `rows` is false for operators whose output has no axis of rows, `zero` lists the open axes that
    may be empty.
    """

    nodes: list[onnx.NodeProto]
    inputs: dict[str, Input]
    constants: dict[str, Array] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 21
    rows: bool = True
    zero: tuple[str, ...] = ("n", "w")

    def model(self) -> bytes:
        infos = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(found.array({"n": 1, "w": 1}, 0).dtype),
                list(found.shape),
            )
            for name, found in self.inputs.items()
        ]
        graph = helper.make_graph(
            self.nodes,
            "example",
            infos,
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()

    def feeds(self, sizes: Sizes, seed: int = 0) -> dict[str, Array]:
        return {
            name: found.array(sizes, seed + i)
            for i, (name, found) in enumerate(self.inputs.items())
        }

    def has_rows(self, name: str) -> bool:
        """Whether an input has one entry per row."""
        return self.inputs[name].shape[:1] == ("n",)


def one(op: str, inputs: dict[str, Input], *order: str, **options: Any) -> Example:
    """One node on inputs and constants; names in `order` where they are not the inputs' own."""
    own = {"constants", "outputs", "opset", "rows", "zero"}
    attributes = {key: value for key, value in options.items() if key not in own}
    settings = {key: value for key, value in options.items() if key in own}
    names = list(order) or [*inputs, *settings.get("constants", {})]
    node = helper.make_node(op, names, list(settings.get("outputs", ("y",))), **attributes)
    return Example([node], inputs, **settings)


def _weights(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _branch(name: str, op: str) -> onnx.GraphProto:
    node = helper.make_node(op, ["x"], [name])
    return helper.make_graph([node], name, [], [helper.make_empty_tensor_value_info(name)])


X: Final = {"x": normal("n", "w", 5)}
IMAGE: Final = {"x": normal("n", 5, "w", 7)}
PAIR: Final = {"a": normal("n", "w", 5), "b": normal("w", 1)}
WHOLE: Final = {"a": integers("n", "w", 5, low=1), "b": integers("w", 1, low=1, high=9)}
TRUTHS: Final = {"a": booleans("n", "w", 5), "b": booleans("w", 1)}

EXAMPLES: dict[str, Example] = {}

for _op in (
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu",
):  # fmt: skip
    EXAMPLES[_op] = one(_op, X)
for _op in ("Log", "Sqrt"):
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
    EXAMPLES[_op] = one(_op, {"x": normal("n", "w", 5, scale=1)}, constants={"axes": _ints(-1)})
EXAMPLES["ReduceLogSum"] = one(
    "ReduceLogSum", {"x": positive("n", "w", 5)}, constants={"axes": _ints(1)}, zero=("n",)
)
for _op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    EXAMPLES[_op] = one(_op, IMAGE, zero=("n",))
for _op in ("MaxPool", "AveragePool", "LpPool"):
    EXAMPLES[_op] = one(_op, IMAGE, kernel_shape=[1, 3], strides=[1, 2], opset=18, zero=("n",))
for _op, _count in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    EXAMPLES[_op] = one(
        _op,
        {"x": normal("n", 4, 6)},
        constants={"w": _weights(1, 8 * _count, 6) / 2, "r": _weights(1, 8 * _count, 8) / 3},
        hidden_size=8,
        layout=1,
        zero=(),
    )

EXAMPLES |= {
    "ArgMax": one("ArgMax", X, axis=2),
    "ArgMin": one("ArgMin", X, axis=1, zero=("n",)),
    "BatchNormalization": one(
        "BatchNormalization",
        IMAGE,
        constants={"s": _weights(5), "b": _weights(5), "m": _weights(5), "v": _weights(5) ** 2},
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
    "DepthToSpace": one("DepthToSpace", {"x": normal("n", 8, "w", 3)}, blocksize=2),
    "Expand": one("Expand", {"x": normal("n", 1, 5)}, constants={"s": _ints(1, 4, 5)}),
    "EyeLike": one("EyeLike", {"x": normal("n", "w")}, rows=False),
    "Flatten": one("Flatten", IMAGE),
    "Gather": one("Gather", {"x": normal(9, 5), "i": integers("n", "w", high=9)}),
    "GatherElements": one("GatherElements", X | {"i": integers("n", "w", 3, high=5)}, axis=2),
    "GatherND": one("GatherND", X | {"i": integers("n", "w", 3, 1, high=5)}, batch_dims=2),
    "Gemm": one(
        "Gemm",
        {"x": normal("n", 20)},
        constants={"w": _weights(20, 9), "b": _weights(9)},
        zero=("n",),
    ),
    "GroupNormalization": one(
        "GroupNormalization",
        {"x": normal("n", 6, "w", 3)},
        constants={"s": _weights(6), "b": _weights(6)},
        num_groups=2,
        zero=(),
    ),
    "InstanceNormalization": one(
        "InstanceNormalization", IMAGE, constants={"s": _weights(5), "b": _weights(5)}, zero=("n",)
    ),
    "LRN": one("LRN", IMAGE, size=3),
    "LayerNormalization": one("LayerNormalization", X, constants={"s": _weights(5)}),
    "LogSoftmax": one("LogSoftmax", X, axis=2),
    "LpNormalization": one("LpNormalization", X, axis=2, p=2),
    "MatMul": one("MatMul", {"a": normal("n", "w", 12)}, constants={"b": _weights(12, 17)}),
    "MeanVarianceNormalization": one("MeanVarianceNormalization", IMAGE, axes=[2, 3], zero=("n",)),
    "Mod": one("Mod", WHOLE),
    "Not": one("Not", {"x": booleans("n", "w", 5)}),
    "OneHot": one(
        "OneHot",
        {"i": integers("n", "w", high=6)},
        constants={"depth": np.array(6), "values": np.array([0, 1], np.float32)},
    ),
    "Pad": one("Pad", X, constants={"pads": _ints(0, 1, 2, 0, 0, 1)}),
    "Pow": one("Pow", {"a": positive("n", "w", 5), "b": normal("w", 1)}),
    "RMSNormalization": one("RMSNormalization", X, constants={"s": _weights(5)}, opset=23),
    "SimplifiedLayerNormalization": one(
        "SimplifiedLayerNormalization", X, constants={"s": _weights(5)}
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
    "Reshape": one("Reshape", {"x": normal("n", "w", 6)}, constants={"s": _ints(0, 0, 2, 3)}),
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
        constants={"from": _ints(3), "to": _ints(-9), "axes": _ints(2), "step": _ints(-1)},
    ),
    "Softmax": one("Softmax", X, axis=2),
    "SpaceToDepth": one("SpaceToDepth", {"x": normal("n", 3, 4, 6)}, blocksize=2, zero=("n",)),
    "Split": one("Split", X, constants={"sizes": _ints(2, 3)}, axis=2, outputs=("y", "z")),
    "Squeeze": one("Squeeze", {"x": normal("n", 1, "w")}, constants={"axes": _ints(1)}),
    "Swish": one("Swish", X, alpha=1.5, opset=24),
    "Tile": one("Tile", X, constants={"repeats": _ints(1, 2, 3)}),
    "TopK": one("TopK", X, constants={"k": _ints(3)}, outputs=("y", "z")),
    "Transpose": one("Transpose", X, perm=[0, 2, 1]),
    "Trilu": one("Trilu", X),
    "Unsqueeze": one("Unsqueeze", X, constants={"axes": _ints(1)}),
    "Upsample": one(
        "Upsample",
        IMAGE,
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
        mode="nearest",
        opset=9,
    ),
    "Where": one("Where", {"c": booleans("n", "w", 5), "a": normal("w", 1), "b": normal(5)}),
}


def _network(*nodes: onnx.NodeProto, **constants: Array) -> Example:
    """A convolution, so that what follows lies channels-last, then `nodes` from c to y."""
    convolution = helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1])
    return Example(
        [convolution, *nodes], IMAGE, {"k": _weights(6, 5, 3, 3), **constants}, zero=("n",)
    )


def _pool(op: str, **attributes: Any) -> Example:
    return _network(helper.make_node(op, ["c"], ["y"], **attributes))


EXAMPLES |= {
    "packhorse.Attention": Example(
        [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["q", "t"], ["scores"]),
            helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
            helper.make_node("Softmax", ["scaled"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "v"], ["y"]),
        ],
        {name: normal("n", 2, "w", 8) for name in "qkv"},
        {"scale": np.float32(0.35)},
    ),
    "packhorse.Conv": _network(helper.make_node("Relu", ["c"], ["y"])),
    "packhorse.ConvTranspose": Example(
        [helper.make_node("ConvTranspose", ["x", "k"], ["y"], strides=[2, 2])],
        IMAGE,
        {"k": _weights(5, 4, 3, 3)},
        zero=("n",),
    ),
    "packhorse.MaxPool": _pool("MaxPool", kernel_shape=[1, 2]),
    "packhorse.AveragePool": _pool("AveragePool", kernel_shape=[1, 3], pads=[0, 1, 0, 1]),
    "packhorse.LpPool": _pool("LpPool", kernel_shape=[1, 2]),
    "packhorse.GlobalAveragePool": _pool("GlobalAveragePool"),
    "packhorse.GlobalMaxPool": _pool("GlobalMaxPool"),
    "packhorse.Elementwise": Example(
        [
            helper.make_node("Add", ["a", "b"], ["s"]),
            helper.make_node("Tanh", ["s"], ["t"]),
            helper.make_node("Mul", ["t", "a"], ["y"]),
        ],
        PAIR,
    ),
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
    "packhorse.Pad": one(
        "Pad",
        {**X, "value": given(np.array([2.5], np.float32))},
        "x",
        "pads",
        "value",
        constants={"pads": _ints(0, 1, 2, 0, 0, 1)},
    ),
    "packhorse.Resize": one(
        "Resize",
        {**IMAGE, "scales": given(np.array([1, 1, 2, 1.5], np.float32))},
        "x",
        "",
        "scales",
        mode="linear",
        zero=("n",),
    ),
    "packhorse.Window": one(
        "Slice",
        {**X, "starts": given(_ints(1, 3)), "ends": given(_ints(99, 0))},
        constants={"axes": _ints(1, 2), "steps": _ints(1, -2)},
    ),
    "packhorse.MatMul": Example(
        [
            helper.make_node("MatMul", ["a", "m"], ["p"]),
            helper.make_node("Add", ["p", "v"], ["q"]),
            helper.make_node("Relu", ["q"], ["y"]),
        ],
        {"a": normal("n", "w", 12)},
        {"m": _weights(12, 17), "v": _weights(17)},
    ),
    "packhorse.Trees": one(
        "TreeEnsembleRegressor",
        {"x": normal("n", 7)},
        domain="ai.onnx.ml",
        zero=("n",),
        n_targets=1,
        **trees.drawn(3, 12, 31, 7).attributes("target"),
    ),
}

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
}
"""Operators that passes turn into others, at least in their examples: the keys that are lowered."""

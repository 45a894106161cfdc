"""Models whose nodes passes turn into operators of the engine's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from benchmarks.models import trees
from tests.engine.plan.lower.example import (
    IMAGE,
    PAIR,
    Array,
    Example,
    X,
    booleans,
    given,
    integers,
    ints,
    normal,
    one,
    positive,
    weights,
)


def _network(*nodes: onnx.NodeProto, **constants: Array) -> Example:
    """A convolution, so that what follows lies channels-last, then `nodes` from c to y."""
    convolution = helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1])
    return Example(
        [convolution, *nodes], IMAGE, {"k": weights(6, 5, 3, 3), **constants}, zero=("n",)
    )


def _pool(op: str, **attributes: Any) -> Example:
    return _network(helper.make_node(op, ["c"], ["y"], **attributes))


FUSED: dict[str, Example] = {
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
        {"k": weights(5, 4, 3, 3)},
        zero=("n",),
    ),
    "packhorse.Heads": _network(
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "h", "b"], ["y"]),
        h=weights(3, 6, 1, 1),
        b=weights(3),
    ),
    "packhorse.PlaneConv": Example(
        [
            helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node(
                "MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
            ),
        ],
        {"x": normal("n", 3, 9, "w")},
        {"k": weights(6, 3, 3, 3)},
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
    "packhorse.Pad": one(
        "Pad",
        {**X, "value": given(np.array([2.5], np.float32))},
        "x",
        "pads",
        "value",
        constants={"pads": ints(0, 1, 2, 0, 0, 1)},
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
        {**X, "starts": given(ints(1, 3)), "ends": given(ints(99, 0))},
        constants={"axes": ints(1, 2), "steps": ints(1, -2)},
    ),
    "packhorse.MatMul": Example(
        [
            helper.make_node("MatMul", ["a", "m"], ["p"]),
            helper.make_node("Add", ["p", "v"], ["q"]),
            helper.make_node("Relu", ["q"], ["y"]),
        ],
        {"a": normal("n", "w", 12)},
        {"m": weights(12, 17), "v": weights(17)},
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

_NON_ZERO = one("NonZero", {"x": booleans("n", "w", 5)}, rows=False)
_SUPPRESSION = one(
    "NonMaxSuppression",
    {"boxes": positive("n", "w", 4), "scores": normal("n", 3, "w")},
    constants={"most": ints(4), "overlap": np.float32([0.4]), "floor": np.float32([-1])},
    rows=False,
)
FUSED |= {
    "packhorse.CountNonZero": _NON_ZERO,
    "packhorse.Positions": _NON_ZERO,
    "packhorse.Suppress": _SUPPRESSION,
    "packhorse.KeptBoxes": _SUPPRESSION,
    "packhorse.Distinct": one(
        "Unique",
        {"x": integers("n", "w", high=9)},
        outputs=("y", "first", "inverse", "counts"),
        rows=False,
    ),
    "packhorse.RoiAlign": one(
        "RoiAlign",
        {"x": normal(2, 5, 6, 7), "rois": normal("n", 4), "images": integers("n", high=2)},
        output_height=2,
        output_width=3,
        opset=16,
        zero=("n",),
    ),
    "packhorse.Frames": Example(
        [
            helper.make_node("Reshape", ["x", "shape"], ["signal"]),
            helper.make_node("STFT", ["signal", "step", "", "length"], ["y"]),
        ],
        {"x": normal("n", 4, "w")},
        {"shape": ints(0, -1, 1), "step": np.array(2), "length": np.array(4)},
        zero=(),
    ),
    "packhorse.DeformedColumns": one(
        "DeformConv",
        {"x": normal("n", 3, 6, "w"), "offset": normal("n", 8, 5, "w")},
        "x",
        "k",
        "offset",
        constants={"k": weights(4, 3, 2, 2)},
        pads=[0, 0, 0, 1],
        zero=("n",),
    ),
}

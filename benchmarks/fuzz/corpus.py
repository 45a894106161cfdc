"""Models to damage: the onnx package's small ones, the shipped example, published and made ones."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.conformance.cases import load_cases

LARGEST: Final = 256 << 10
"""Larger files are mostly weights, where damage changes numbers only."""

ROOT: Final = Path(__file__).resolve().parents[2]


def models(cache: Path, published: Path | None) -> list[bytes]:
    """Model files to begin with, always in the same order.

    `cache` keeps the onnx package's cases, `published` is a folder of models to take the small ones
    of. Large files come several times, as there are two thousand tiny ones beside them.
    """
    tiny = [case.model for case in load_cases(cache) if case.model]
    files = [ROOT / "examples/digits/digits.onnx"]
    if published is not None:
        files += sorted(published.glob("**/*.onnx"))
    whole = [path.read_bytes() for path in files if path.stat().st_size <= LARGEST]
    whole += [made_network(), made_control_flow(), made_quantised()]
    return tiny + whole * (len(tiny) // len(whole) // 2)


def made_network() -> bytes:
    """A small network of convolution, normalisation, attention and recurrence, sizes open."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "tail"], ["flat"], axis=0),
        helper.make_node("Reshape", ["p", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "m"], ["q"]),
        helper.make_node("Softmax", ["q"], ["a"], axis=-1),
        helper.make_node("LayerNormalization", ["a", "g"], ["l"], axis=-1),
        helper.make_node("Transpose", ["l"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "gw", "gr"], ["y", "h"], hidden_size=4),
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0], keepdims=0),
        helper.make_node("TopK", ["mean", "two"], ["z", "i"]),
    ]
    constants = [
        weight("w", 4, 3, 3, 3),
        weight("b", 4),
        weight("m", 4, 6),
        weight("g", 6),
        weight("gw", 1, 12, 6),
        weight("gr", 1, 12, 4),
        numpy_helper.from_array(np.array([0]), "zero"),
        numpy_helper.from_array(np.array([-1, 4]), "tail"),
        numpy_helper.from_array(np.array([2]), "two"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    return _file(nodes, [x], ["z", "i", "h"], constants)


def made_control_flow() -> bytes:
    """A loop with a branch inside, and a scan."""

    def info(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def branch(op: str, name: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["v", "x"], [name])
        return helper.make_graph([node], name, [], [info(name, TensorProto.FLOAT, [3])])

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["again"]),
            helper.make_node("If", ["c"], ["u"], then_branch=branch("Add", "more"),
                             else_branch=branch("Sub", "less")),
        ],
        "body",
        [info("k", TensorProto.INT64, []), info("c", TensorProto.BOOL, []),
         info("v", TensorProto.FLOAT, [3])],
        [info("again", TensorProto.BOOL, []), info("u", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    step = helper.make_graph(
        [helper.make_node("Add", ["sum", "e"], ["next"]), helper.make_node("Neg", ["e"], ["o"])],
        "step",
        [info("sum", TensorProto.FLOAT, []), info("e", TensorProto.FLOAT, [])],
        [info("next", TensorProto.FLOAT, []), info("o", TensorProto.FLOAT, [])],
    )
    nodes = [
        helper.make_node("Loop", ["count", "on", "x"], ["looped"], body=body),
        helper.make_node("Scan", ["start", "looped"], ["y", "z"], body=step, num_scan_inputs=1),
    ]
    constants = [
        numpy_helper.from_array(np.array(3), "count"),
        numpy_helper.from_array(np.array(True), "on"),
        numpy_helper.from_array(np.array(0, np.float32), "start"),
    ]
    return _file(nodes, [info("x", TensorProto.FLOAT, [3])], ["y", "z"], constants)


def made_quantised() -> bytes:
    """Quantised values around a function of the model's own, a resize and a scatter."""
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Sqrt", ["s"], ["r"])]
    function = helper.make_function(
        "own", "Size", ["a"], ["r"], body, [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
        helper.make_node("Size", ["d"], ["f"], domain="own"),
        helper.make_node("Resize", ["f", "", "factors"], ["w"], mode="linear"),
        helper.make_node("ScatterND", ["w", "where", "what"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(7, np.uint8), "point"),
        numpy_helper.from_array(np.array([1, 1, 2, 1.5], np.float32), "factors"),
        numpy_helper.from_array(np.array([[0, 0, 1]]), "where"),
        numpy_helper.from_array(np.ones((1, 6), np.float32), "what"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 4])
    return _file(nodes, [x], ["y"], constants, function)


def _file(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    constants: list[onnx.TensorProto],
    *functions: onnx.FunctionProto,
) -> bytes:
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "made", inputs, infos, constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))
    return model.SerializeToString()

"""Small ONNX models for tests, and repositories of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def identity(element: int = TensorProto.FLOAT, shape: Shape = ("N", "D")) -> onnx.ModelProto:
    """y = x."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )


def scale(factor: float, shape: Shape = ("N", "D")) -> onnx.ModelProto:
    """y = x * factor."""
    return _model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(factor), "factor")],
    )


def sum_and_difference() -> onnx.ModelProto:
    """sum = a + b, difference = a - b."""
    return _model(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [helper.make_tensor_value_info(n, TensorProto.INT32, ["N", 4]) for n in ("a", "b")],
        [
            helper.make_tensor_value_info(n, TensorProto.INT32, ["N", 4])
            for n in ("sum", "difference")
        ],
    )


def running_sum() -> onnx.ModelProto:
    """y = next = x + total."""
    return _model(
        [
            helper.make_node("Add", ["x", "total"], ["y"]),
            helper.make_node("Identity", ["y"], ["next"]),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", "total")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("y", "next")],
    )


def lookup() -> onnx.ModelProto:
    """y = table[index], with a table of five rows; an index outside fails the run."""
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    return _model(
        [helper.make_node("Gather", ["table", "index"], ["y"], name="lookup")],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(table, "table")],
    )


def row_total() -> onnx.ModelProto:
    """y = x + sum of all rows of x: rows depend on each other, so requests must not be joined."""
    return _model(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1),
            helper.make_node("Add", ["x", "total"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([0]), "axis")],
        mixes_rows=True,
    )


def reciprocal() -> onnx.ModelProto:
    """y = 1 / x."""
    return _model(
        [helper.make_node("Reciprocal", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )


def store(repository: Path, name: str, model: onnx.ModelProto, version: int = 1) -> Path:
    """Write `repository/name/version/model.onnx`."""
    path = repository / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    mixes_rows: bool = False,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if mixes_rows:
        helper.set_model_props(model, {"mixes_rows": "yes"})
    onnx.checker.check_model(model)
    return model

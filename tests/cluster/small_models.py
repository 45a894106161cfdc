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


def sequences() -> onnx.ModelProto:
    """y = x times a matrix, token by token; mean = its mean over the length."""
    matrix = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    return _model(
        [
            helper.make_node("MatMul", ["x", "matrix"], ["y"]),
            helper.make_node("ReduceMean", ["y", "axis"], ["mean"], keepdims=0),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", 4]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
        ragged=True,
    )


def reciprocal() -> onnx.ModelProto:
    """y = 1 / x."""
    return _model(
        [helper.make_node("Reciprocal", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )


def classifier() -> onnx.ModelProto:
    """Trees as scikit-learn's converter writes them: a label, and a ZipMap of probabilities."""
    trees = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[1, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        class_treeids=[0] * 6,
        class_nodeids=[1, 1, 1, 2, 2, 2],
        class_ids=[0, 1, 2, 0, 1, 2],
        class_weights=[0.75, 0.125, 0.125, 0.125, 0.25, 0.625],
        classlabels_strings=["ant", "cat", "dog"],
        post_transform="NONE",
    )
    zipped = helper.make_node(
        "ZipMap",
        ["scores"],
        ["probabilities"],
        domain="ai.onnx.ml",
        classlabels_strings=["ant", "cat", "dog"],
    )
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, number))
    return _model(
        [trees, zipped],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
            helper.make_value_info("probabilities", maps),
        ],
        learning=True,
    )


def insertion() -> onnx.ModelProto:
    """longer = sequence with x behind it; given = whether an optional has an element."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    sequence = helper.make_sequence_type_proto(tensor)
    return _model(
        [
            helper.make_node("SequenceInsert", ["sequence", "x"], ["longer"]),
            helper.make_node("OptionalHasElement", ["maybe"], ["given"]),
        ],
        [
            helper.make_value_info("sequence", sequence),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2]),
            helper.make_value_info("maybe", helper.make_optional_type_proto(tensor)),
        ],
        [
            helper.make_value_info("longer", sequence),
            helper.make_tensor_value_info("given", TensorProto.BOOL, []),
        ],
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
    ragged: bool = False,
    learning: bool = False,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 18)]
    if learning:
        opsets.append(helper.make_opsetid("ai.onnx.ml", 3))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    said = {"mixes_rows": mixes_rows, "ragged": ragged}
    helper.set_model_props(model, {name: "yes" for name, holds in said.items() if holds})
    onnx.checker.check_model(model)
    return model

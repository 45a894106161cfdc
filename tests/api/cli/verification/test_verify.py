"""The command: cases, verdicts, exit codes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api.cli.verification import references
from api.cli.verification.references import OnnxruntimeReference, ReferenceRunError
from engine.graph.ir import Node
from engine.plan import lowering
from tests.api.cli.conftest import Invoke
from tests.engine.models import serialise, tensor


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[str]) -> Path:
    path.write_bytes(serialise(nodes, inputs, outputs))
    return path


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """y = relu(a @ b), all axes open."""
    nodes = [helper.make_node("MatMul", ["a", "b"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    inputs = [tensor("a", ["n", "k"]), tensor("b", ["k", "m"])]
    return save(tmp_path / "product.onnx", nodes, inputs, ["y"])


def test_equal_on_random_shapes(invoke: Invoke, digits: Path) -> None:
    done = invoke("verify", digits)
    assert done.code == 0, done.err
    assert "All 3 cases are equal." in done.out
    assert "[1, 1, 8, 8]" in done.out
    assert "[3, 1, 8, 8]" in done.out
    assert "onnxruntime" in done.out
    assert " onnx " in done.out


def test_json_says_it_all(invoke: Invoke, product: Path) -> None:
    done = invoke("verify", product, "--json", "--reference", "onnx", "--cases", 2)
    found = json.loads(done.out)
    assert found["equal"] is True
    assert [case["decided_by"] for case in found["cases"]] == ["onnx", "onnx"]
    shapes = [case["shapes"] for case in found["cases"]]
    assert shapes[0]["a"][1] == shapes[0]["b"][0]
    assert shapes[0] != shapes[1]
    (output,) = found["cases"][0]["references"][0]["outputs"]
    assert output["output"] == "y"
    assert output["max_error"] <= output["allowed"]


def test_shapes_given(invoke: Invoke, product: Path) -> None:
    done = invoke(
        "verify", product, "--shape", "a=2x3", "--shape", "b=3x4", "--shape", "b=3x0", "--json"
    )
    shapes = [case["shapes"] for case in json.loads(done.out)["cases"]]
    assert shapes == [{"a": [2, 3], "b": [3, 4]}, {"a": [2, 3], "b": [3, 0]}]


def test_files_and_folders(invoke: Invoke, product: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    for name, rows in (("first", 1), ("second", 5)):
        folder.mkdir(exist_ok=True)
        a, b = np.ones((rows, 2), np.float32), np.ones((2, 3), np.float32)
        np.savez(folder / f"{name}.npz", a=a, b=b)
    stored = folder / "test_data_set_0"
    stored.mkdir()
    for index, array in enumerate((np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))):
        content = onnx.numpy_helper.from_array(array).SerializeToString()
        (stored / f"input_{index}.pb").write_bytes(content)
    (folder / "readme.txt").write_text("no case")
    done = invoke("verify", product, "--inputs", folder, "--json")
    assert [case["name"] for case in json.loads(done.out)["cases"]] == [
        "first.npz",
        "second.npz",
        "test_data_set_0",
    ]
    assert done.code == 0
    one = invoke("verify", product, "--inputs", folder / "first.npz")
    assert "All 1 cases" in one.out


def test_a_difference_is_located(
    invoke: Invoke, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: onnx.ModelProto, outputs: Any) -> OnnxruntimeReference:
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        changed.graph.node[1].op_type = "Neg"
        return OnnxruntimeReference(changed, outputs)

    monkeypatch.setitem(references.MAKERS, "onnxruntime", wrong)
    done = invoke("verify", product, "--cases", 1)
    assert done.code == 1
    assert "first difference in random 1: node 'y' (Relu)" in done.out
    assert "1 of 1 cases differ or fail" in done.out
    found = json.loads(invoke("verify", product, "--cases", 1, "--json").out)
    assert found["equal"] is False
    assert found["cases"][0]["first_difference"]["op"] == "Relu"
    # The reference that comes second has no say, and is shown.
    assert [r["equal"] for r in found["cases"][0]["references"]] == [False, True]


@pytest.mark.parametrize("place", [0, 1])
def test_a_wrong_kernel_is_located(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n0"], name="first"),
        helper.make_node("Tanh", ["n0"], ["t"], name="between"),
        helper.make_node("LayerNormalization", ["t", "s"], ["n1"], name="second"),
        helper.make_node("Sigmoid", ["n1"], ["y"], name="last"),
    ]
    constants = {"s": np.ones(8, np.float32)}
    path = tmp_path / "norms.onnx"
    path.write_bytes(serialise(nodes, [tensor("x", ["n", 8])], ["y"], constants))
    assert invoke("verify", path, "--cases", 1).code == 0
    right = lowering.lowerings()["LayerNormalization"]

    def wrong(node: Node, low: lowering.Lowering) -> None:
        broken = node
        if node.name == ("first", "second")[place]:
            broken = copy.copy(node)
            broken.attributes = {**node.attributes, "epsilon": 0.5}
        right(broken, low)

    monkeypatch.setitem(lowering.lowerings(), "LayerNormalization", wrong)
    done = invoke("verify", path, "--cases", 1, "--json")
    assert done.code == 1
    found = json.loads(done.out)["cases"][0]["first_difference"]
    assert found["node"] == ("first", "second")[place]
    assert found["op"] == "LayerNormalization"


def test_a_reference_that_cannot_load_is_left_out(
    invoke: Invoke, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(model: onnx.ModelProto, outputs: Any) -> OnnxruntimeReference:
        raise ReferenceRunError("not today")

    monkeypatch.setitem(references.MAKERS, "onnxruntime", refusing)
    done = invoke("verify", product, "--cases", 1)
    assert done.code == 0
    assert "onnxruntime cannot load the model: not today" in done.err
    done = invoke("verify", product, "--reference", "onnxruntime")
    assert done.code == 1
    assert "no reference can load" in done.err


def test_larger_sizes_are_tried_where_small_ones_do_not_fit(invoke: Invoke, tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["s"], value_ints=[-1, 64])  # any multiple of 64
    model = save(
        tmp_path / "wide.onnx",
        [shape, helper.make_node("Reshape", ["x", "s"], ["y"])],
        [tensor("x", [1, "w"])],
        ["y"],
    )
    found = json.loads(invoke("verify", model, "--json").out)
    assert found["equal"] is True
    assert [case["shapes"]["x"][1] for case in found["cases"]] == [64, 256, 64]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--reference", "nobody"], 2, "known are onnxruntime, onnx"),
        (["--inputs", "nowhere.npz"], 1, "no such file"),
        (["--shape", "a=2x3", "--inputs", "x.npz"], 2, "--shape is for random values"),
        (["--shape", "c=2"], 2, "no input 'c'"),
        (["--shape", "a=2x3", "--shape", "b=4x1"], 1, "fails"),
    ],
)
def test_what_cannot_be_done_is_said(
    invoke: Invoke, product: Path, arguments: list[str], code: int, text: str
) -> None:
    done = invoke("verify", product, *arguments)
    assert done.code == code, done.err
    assert text in done.out + done.err


def test_text_needs_files(invoke: Invoke, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model = save(tmp_path / "t.onnx", [node], [tensor("x", ["n"], TensorProto.STRING)], ["y"])
    assert invoke("verify", model).code == 2
    (tmp_path / "x.json").write_text(json.dumps({"x": ["a", "bc"]}))
    assert invoke("verify", model, "--inputs", tmp_path / "x.json").code == 0


def test_no_file(invoke: Invoke) -> None:
    assert invoke("verify", "nothing.onnx").code == 2

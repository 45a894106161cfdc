"""Operators that write straight into the output of the Concat that reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import engine
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
WEIGHTS = {
    "pointwise": RNG.standard_normal((8, 8, 1, 1)).astype(np.float32),
    "window": RNG.standard_normal((8, 8, 3, 3)).astype(np.float32),
    "depthwise": RNG.standard_normal((8, 1, 3, 3)).astype(np.float32),
    "matrix": RNG.standard_normal((6, 6)).astype(np.float32),
    "scale": RNG.standard_normal(6).astype(np.float32),
}
BRANCHES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "pointwise": ("Conv", ["x", "pointwise"], {}),
    "window": ("Conv", ["x", "window"], {"pads": [1, 1, 1, 1]}),
    "depthwise": ("Conv", ["x", "depthwise"], {"pads": [1, 1, 1, 1], "group": 8}),
    "pool": ("MaxPool", ["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "relu": ("Relu", ["x"], {}),
    "softmax": ("Softmax", ["x"], {"axis": -1}),
    "matmul": ("MatMul", ["x", "matrix"], {}),
    "norm": ("LayerNormalization", ["x", "scale"], {"axis": -1}),
    "sum": ("CumSum", ["x", "axis"], {}),
    "swap": ("Transpose", ["x"], {"perm": [0, 1, 2, 3]}),
}


def model(branches: list[str], axis: int, shape: list[Any], tail: bool) -> bytes:
    nodes = []
    for name in branches:
        op, inputs, attributes = BRANCHES[name]
        nodes.append(helper.make_node(op, inputs, [f"{name}_y"], **attributes))
    joined = [f"{name}_y" for name in branches]
    nodes.append(helper.make_node("Concat", joined, ["joined"], axis=axis))
    nodes.append(helper.make_node("Abs" if tail else "Identity", ["joined"], ["y"]))
    used = {i for name in branches for i in BRANCHES[name][1]}
    constants = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in {**WEIGHTS, "axis": np.array(1)}.items()
        if name in used
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "joined", [x], [y], constants)
    imports = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(
        graph, opset_imports=imports, ir_version=8
    ).SerializeToString()
    return content


def check(content: bytes, isa: str, *shapes: tuple[int, ...]) -> engine.Session:
    session = engine.load(content, threads=2, isa=isa)
    oracle = onnxruntime.InferenceSession(content)
    for shape in shapes:
        x = RNG.standard_normal(shape).astype(np.float32)
        expected = oracle.run(None, {"x": x})[0]
        assert_equal(session.run({"x": x})["y"], expected)
    return session


def copies(session: engine.Session) -> int:
    operations = session.explain().operations
    return sum(o.op == "Concat" and "copy" in o.kernel for o in operations)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("tail", [False, True])
def test_image_branches(isa: str, axis: int, tail: bool) -> None:
    branches = ["pointwise", "window", "depthwise", "pool", "relu"]
    content = model(branches, axis, ["n", 8, "h", "w"], tail)
    check(content, isa, (2, 8, 5, 7), (1, 8, 9, 3)).close()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("tail", [False, True])
def test_row_branches(isa: str, axis: int, tail: bool) -> None:
    branches = ["softmax", "matmul", "norm", "sum", "relu"]
    content = model(branches, axis, ["n", "s", 6], tail)
    check(content, isa, (2, 5, 6), (1, 3, 6)).close()


def test_nothing_is_copied_where_all_branches_write_into_windows() -> None:
    content = model(["pointwise", "window", "depthwise"], 1, ["n", 8, "h", "w"], True)
    session = check(content, ISAS[-1], (2, 8, 5, 7))
    assert copies(session) == 0
    session.close()


def test_a_value_that_others_read_is_copied() -> None:
    content = model(["pointwise", "pointwise"], 1, ["n", 8, "h", "w"], True)
    parsed = onnx.load_from_string(content)
    del parsed.graph.node[1]
    check(parsed.SerializeToString(), ISAS[-1], (2, 8, 5, 7)).close()

"""Values between products whose rows lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import engine
from engine.profile import _direct
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
LONG, SHORT = 512, 24


def matrix(*shape: int) -> Array:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def model(nodes: list[onnx.NodeProto], shape: list[Any], outputs: list[str], **w: Array) -> bytes:
    found = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in w.items()],
    )
    made = helper.make_model(found, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def products(*between: onnx.NodeProto, last: str, outputs: list[str]) -> bytes:
    """x @ a is h, then `between`, then `last` @ b is y."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        *between,
        helper.make_node("MatMul", [last, "b"], ["y"]),
    ]
    shape = ["batch", "length", SHORT]
    weights = {"a": matrix(SHORT, LONG), "b": matrix(LONG, SHORT), "square": matrix(LONG, LONG)}
    return model(nodes, shape, outputs, **weights)


def convolutions() -> bytes:
    """A residual block: two 1x1 convolutions with a sum, then a strided one."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Conv", ["h", "b"], ["i"]),
        helper.make_node("Conv", ["i", "a"], ["j"]),
        helper.make_node("Add", ["j", "h"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["k"]),
        helper.make_node("Conv", ["k", "b"], ["y"], strides=[2, 2]),
    ]
    weights = {"a": matrix(LONG, SHORT, 1, 1), "b": matrix(SHORT, LONG, 1, 1)}
    return model(nodes, ["batch", SHORT, "height", "width"], ["y"], **weights)


def words(session: engine.Session, x: Array) -> list[dict[str, int]]:
    """Parameters of the products of a model at the shape of `x`."""
    runner = _direct(session).runner
    _, sizes = session._state.arguments.accept({"x": x})
    parameters = runner.bind(sizes).bound.parameters.tolist()
    starts = (runner.program.starts // 8).tolist()
    return [
        {
            name: parameters[starts[index] + field.word]
            for name, field in step.spec.layout.fields.items()
            if field.kind == "int"
        }
        for index, step in enumerate(runner.program.steps)
        if step.spec.family == "dot"
    ]


CASES = {
    "products": (products(last="h", outputs=["y"]), (3, 5, SHORT)),
    "chain": (
        products(helper.make_node("MatMul", ["h", "square"], ["i"]), last="i", outputs=["y"]),
        (3, 5, SHORT),
    ),
    "residual": (convolutions(), (2, SHORT, 5, 6)),
    "also an output": (products(last="h", outputs=["h", "y"]), (2, 3, SHORT)),
    "also read by another operator": (
        products(
            helper.make_node("Softmax", ["h"], ["s"], axis=-1),
            helper.make_node("Add", ["h", "s"], ["t"]),
            last="t",
            outputs=["y"],
        ),
        (2, 3, SHORT),
    ),
    "read as the weights": (
        products(
            helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["h", "t"], ["q"]),
            helper.make_node("MatMul", ["q", "h"], ["r"]),
            last="r",
            outputs=["y"],
        ),
        (2, 3, SHORT),
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_dense_rows(isa: str, name: str) -> None:
    data, shape = CASES[name]
    x = RNG.standard_normal(shape).astype(np.float32)
    session = engine.load(data, threads=2, isa=isa)
    oracle = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = oracle.run(None, {"x": x})
    found = session.run({"x": x})
    for output, array in zip(oracle.get_outputs(), expected, strict=True):
        assert_equal(found[output.name], array)
    alone = session.run({"x": x[1:2]})
    for key, array in found.items():
        assert array[1:2].tobytes() == alone[key].tobytes()


@pytest.mark.parametrize(
    ("name", "gaps"),
    [
        ("products", [16, 0]),
        ("chain", [16, 16, 0]),
        ("residual", [16, 0, 16, 0]),
        ("also an output", [0, 0]),
        ("also read by another operator", [0, 0]),
    ],
)
def test_rows_lie_apart_where_nothing_but_products_reads_them(name: str, gaps: list[int]) -> None:
    data, shape = CASES[name]
    calls = words(engine.load(data, threads=1), np.zeros(shape, np.float32))
    assert [call["c_m2"] // 4 - call["n"] for call in calls] == gaps


def test_evenly_spaced_rows_of_open_sizes_are_read_in_place() -> None:
    for name in ("products", "chain"):
        data, shape = CASES[name]
        calls = words(engine.load(data, threads=1), np.zeros(shape, np.float32))
        assert [call["copied"] for call in calls] == [0] * len(calls)

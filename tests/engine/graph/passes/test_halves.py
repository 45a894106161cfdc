import numpy as np
import pytest
from onnx import TensorProto

from engine.graph.passes import dead_code, halves
from tests.engine.graph.support import after, build, check, node, operators, value

HALF = TensorProto.FLOAT16


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float16)


def test_weights_are_converted_and_nothing_is_rounded_in_between() -> None:
    model = build(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        [value("x", ["n", 8], HALF)],
        [value("y", None, HALF)],
        {"w": random(8, 4)},
    )
    graph = check(model, [halves, dead_code], {"x": random(3, 8)})
    assert operators(graph) == ["Cast", "MatMul", "Relu", "Cast"]
    weights = graph.nodes[1].inputs[1]
    assert weights is not None
    assert weights.is_constant
    assert weights.dtype == np.float32


def test_a_rounding_that_the_model_asks_for_stays() -> None:
    model = build(
        [
            node("Exp", ["x"], ["e"]),
            node("Cast", ["e"], ["h"], to=HALF),
            node("Log", ["h"], ["y"]),
        ],
        [value("x", ["n"])],
        [value("y", None, HALF)],
    )
    graph, _ = after(model, [halves, dead_code])
    assert operators(graph) == ["Exp", "Cast", "Cast", "Log", "Cast"]


@pytest.mark.parametrize("op", ["Transpose", "Reshape", "Concat"])
def test_what_moves_elements_is_left_alone(op: str) -> None:
    inputs = ["x", "s"] if op == "Reshape" else ["x"]
    attributes = {"Transpose": {"perm": [1, 0]}, "Concat": {"axis": 0}}.get(op, {})
    model = build(
        [node(op, inputs, ["y"], **attributes)],
        [value("x", [2, 3], HALF)],
        [value("y", None, HALF)],
        {"s": np.array([3, 2])} if op == "Reshape" else {},
    )
    graph, (report,) = after(model, [halves])
    assert operators(graph) == [op]
    assert not report.changes

"""Scan before opset 9, against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from engine.runtime.reference import Interpreter
from tests.engine.graph.support import assert_equal, build, graph_of, normal, run_oracle, value


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_sums_and_products(direction: int, lengths: list[int] | None) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum", "next"], ["total"]),
            helper.make_node("Mul", ["total", "next"], ["product"]),
        ],
        "body",
        [value("sum", [2]), value("next", [2])],
        [value("total", [2]), value("product", [2])],
    )
    names = ["lengths" if lengths else "", "start", "x"]
    node = helper.make_node(
        "Scan", names, ["y", "z"], body=body, num_scan_inputs=1, directions=[direction]
    )
    inputs = [value("start", [2, 2]), value("x", [2, 3, 2])]
    feed = {"start": normal(2, 2), "x": normal(2, 3, 2, seed=1)}
    if lengths:
        inputs.insert(0, value("lengths", [2], TensorProto.INT64))
        feed = {"lengths": np.array(lengths), **feed}
    model = build([node], inputs, [value("y", None), value("z", None)], opset=8)
    found = Interpreter(graph_of(model)).run(list(feed.values()))
    assert_equal(found, run_oracle(model, feed))

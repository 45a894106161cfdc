"""Equal nodes become one; unequal and random ones do not."""

from __future__ import annotations

import numpy as np
import onnx

from engine.graph.passes.common_subexpressions import common_subexpressions
from tests.engine.graph.support import after, build, check, node, normal, operators, value


def test_equal_chains_are_merged_to_the_end() -> None:
    model = build(
        [
            node("Add", ["x", "one"], ["a"]),
            node("Exp", ["a"], ["b"]),
            node("Add", ["x", "uno"], ["c"]),
            node("Exp", ["c"], ["d"]),
            node("Mul", ["b", "d"], ["y"]),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
        {"one": np.array([1], np.float32), "uno": np.array([1], np.float32)},
    )
    graph = check(model, (common_subexpressions,), {"x": normal(4, 3)})
    assert operators(graph) == ["Add", "Exp", "Mul"]


def test_outputs_keep_their_names() -> None:
    model = build(
        [node("Neg", ["x"], ["y"]), node("Neg", ["x"], ["z"])],
        [value("x", [3])],
        [value("y", [3]), value("z", [3])],
    )
    graph = check(model, (common_subexpressions,), {"x": normal(3)})
    assert [v.name for v in graph.outputs] == ["y", "z"]


def test_attributes_types_and_order_of_inputs_count() -> None:
    kinds = [onnx.TensorProto.INT32, onnx.TensorProto.INT64]
    model = build(
        [
            node("LeakyRelu", ["x"], ["a"], alpha=0.1),
            node("LeakyRelu", ["x"], ["b"], alpha=0.2),
            node("Sub", ["a", "b"], ["c"]),
            node("Sub", ["b", "a"], ["d"]),
            node("Add", ["c", "d"], ["y"]),
            node("Cast", ["x"], ["e"], to=kinds[0]),
            node("Cast", ["x"], ["f"], to=kinds[1]),
        ],
        [value("x", [3])],
        [value("y", [3]), value("e", [3], kinds[0]), value("f", [3], kinds[1])],
    )
    graph = check(model, (common_subexpressions,), {"x": normal(3)})
    assert len(graph.nodes) == 7


def test_zeros_of_both_signs_are_different_constants() -> None:
    model = build(
        [node("Div", ["x", "p"], ["y"]), node("Div", ["x", "m"], ["z"])],
        [value("x", [3])],
        [value("y", [3]), value("z", [3])],
        {"p": np.array(0.0, np.float32), "m": np.array(-0.0, np.float32)},
    )
    graph, (report,) = after(model, (common_subexpressions,))
    assert report.changes == 0
    assert len(graph.nodes) == 2


def test_random_numbers_are_drawn_twice() -> None:
    model = build(
        [
            node("RandomNormalLike", ["x"], ["a"]),
            node("RandomNormalLike", ["x"], ["b"]),
            node("Sub", ["a", "b"], ["y"]),
        ],
        [value("x", [3])],
        [value("y", [3])],
    )
    graph, _ = after(model, (common_subexpressions,))
    assert len(graph.nodes) == 3

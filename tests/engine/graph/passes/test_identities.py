from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from engine.graph.passes import identities, run
from tests.engine.graph.support import (
    after,
    assert_equal,
    build,
    check,
    graph_of,
    interpret,
    node,
    normal,
    operators,
    run_oracle,
    value,
)

ONE, ZERO = np.float32(1), np.float32(0)

REMOVED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Identity": (node("Identity", ["a"], ["b"]), {}),
    "Dropout": (node("Dropout", ["a", "r"], ["b"]), {"r": np.float32(0.5)}),
    "Cast": (node("Cast", ["a"], ["b"], to=TensorProto.FLOAT), {}),
    "CastLike": (node("CastLike", ["a", "k"], ["b"]), {"k": ONE}),
    "Concat": (node("Concat", ["a"], ["b"], axis=0), {}),
    "Sum": (node("Sum", ["a"], ["b"]), {}),
    "Max": (node("Max", ["a"], ["b"]), {}),
    "Transpose": (node("Transpose", ["a"], ["b"], perm=[0, 1]), {}),
    "Add": (node("Add", ["k", "a"], ["b"]), {"k": np.zeros((1, 3), np.float32)}),
    "Sub": (node("Sub", ["a", "k"], ["b"]), {"k": ZERO}),
    "Mul": (node("Mul", ["a", "k"], ["b"]), {"k": ONE}),
    "Div": (node("Div", ["a", "k"], ["b"]), {"k": np.ones(3, np.float32)}),
    "Pow": (node("Pow", ["a", "k"], ["b"]), {"k": ONE}),
    "Expand": (node("Expand", ["a", "k"], ["b"]), {"k": np.array([1, 3], np.int64)}),
    "Tile": (node("Tile", ["a", "k"], ["b"]), {"k": np.array([1, 1], np.int64)}),
    "Slice": (
        node("Slice", ["a", "k", "e", "i"], ["b"]),
        {"k": np.array([0]), "e": np.array([2**31]), "i": np.array([1])},
    ),
    "Pad": (node("Pad", ["a", "k"], ["b"]), {"k": np.zeros(4, np.int64)}),
}


@pytest.mark.parametrize("name", REMOVED)
def test_removed(name: str) -> None:
    middle, constants = REMOVED[name]
    model = build(
        [node("Exp", ["x"], ["a"]), middle, node("Neg", ["b"], ["y"])],
        [value("x", ["N", 3])],
        [value("y", ["N", 3])],
        constants,
    )
    graph = check(model, [identities], {"x": normal(2, 3)})
    assert operators(graph) == ["Exp", "Neg"]


KEPT: dict[str, tuple[Any, dict[str, Any]]] = {
    "broadcasting add": (node("Add", ["a", "k"], ["b"]), {"k": np.zeros((4, 1, 3), np.float32)}),
    "constant minus": (node("Sub", ["k", "a"], ["b"]), {"k": ZERO}),
    "one by": (node("Div", ["k", "a"], ["b"]), {"k": ONE}),
    "other cast": (node("Cast", ["a"], ["b"], to=TensorProto.DOUBLE), {}),
    "nearly one": (node("Mul", ["a", "k"], ["b"]), {"k": np.array([1, 1, 1.001], np.float32)}),
    "backwards": (
        node("Slice", ["a", "k", "e", "i", "s"], ["b"]),
        {
            "k": np.array([2**31]),
            "e": np.array([-(2**31)]),
            "i": np.array([1]),
            "s": np.array([-1]),
        },
    ),
    "shifted pad": (
        node("Pad", ["a", "k"], ["b"]),
        {"k": np.array([0, 1, 0, -1], np.int64)},
    ),
    "expanding": (node("Expand", ["a", "k"], ["b"]), {"k": np.array([5, 1, 3], np.int64)}),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    middle, constants = KEPT[name]
    dtype = TensorProto.DOUBLE if name == "other cast" else TensorProto.FLOAT
    model = build(
        [node("Exp", ["x"], ["a"]), middle, node("Neg", ["b"], ["y"])],
        [value("x", ["N", 3])],
        [value("y", None, dtype)],
        constants,
    )
    graph = check(model, [identities], {"x": normal(2, 3)})
    assert operators(graph) == ["Exp", middle.op_type, "Neg"]


def test_training_dropout_is_kept_with_a_reason() -> None:
    model = build(
        [node("Dropout", ["x", "r", "t"], ["y"])],
        [value("x", [2]), value("t", [], TensorProto.BOOL)],
        [value("y", [2])],
        {"r": np.float32(0.5)},
    )
    graph, (report,) = after(model, [identities])
    assert operators(graph) == ["Dropout"]
    assert "training" in report.notes[0]


def test_output_names_survive() -> None:
    model = build(
        [
            node("Exp", ["x"], ["a"]),
            node("Identity", ["a"], ["y"]),
            node("Identity", ["a"], ["z"]),
            node("Neg", ["a"], ["w"]),
        ],
        [value("x", [3])],
        [value("y", [3]), value("z", [3]), value("w", [3])],
    )
    graph = check(model, [identities], {"x": normal(3)}, rounds=3)
    assert sorted(operators(graph)) == ["Exp", "Identity", "Neg"]


def test_input_straight_to_output_stays() -> None:
    model = build([node("Identity", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])
    graph = graph_of(model)
    reports = run(graph, [identities], 3)
    assert [r.changes for r in reports] == [0]
    assert_equal(interpret(graph, {"x": normal(3)}), run_oracle(model, {"x": normal(3)}))


def test_sum_of_two_is_add() -> None:
    model = build(
        [node("Sum", ["x", "b"], ["y"])], [value("x", [2, 3]), value("b", [3])], [value("y", None)]
    )
    graph = check(model, [identities], {"x": normal(2, 3), "b": normal(3)})
    assert operators(graph) == ["Add"]

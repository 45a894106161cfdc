from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import RunError
from engine.graph.passes import constant_folding, dead_code, identities
from engine.runtime.reference import ReferenceKernel
from tests.engine.graph.support import (
    INT64,
    after,
    assert_equal,
    build,
    check,
    interpret,
    node,
    normal,
    operators,
    run_oracle,
    value,
)


def test_constants_are_evaluated() -> None:
    model = build(
        [
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("Mul", ["wt", "two"], ["w2"]),
            node("MatMul", ["x", "w2"], ["y"]),
        ],
        [value("x", ["N", 3])],
        [value("y", ["N", 4])],
        {"w": normal(4, 3), "two": np.float32(2)},
    )
    graph = check(model, [constant_folding], {"x": normal(2, 3)})
    assert operators(graph) == ["MatMul"]


def test_shape_arithmetic_folds_where_sizes_are_fixed() -> None:
    model = build(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "last"], ["c"], axis=0),
            node("Mul", ["c", "two"], ["c2"]),
            node("Concat", ["minus", "c2"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["y"]),
        ],
        [value("x", ["N", 6])],
        [value("y", None)],
        {
            "last": np.array([1], np.int64),
            "two": np.array([2], np.int64),
            "minus": np.array([-1], np.int64),
        },
    )
    graph = check(model, [constant_folding, dead_code], {"x": normal(4, 6)})
    assert operators(graph) == ["Reshape"]
    assert graph.nodes[0].inputs[1].data.tolist() == [-1, 12]


def test_what_depends_on_a_symbol_stays() -> None:
    model = build([node("Shape", ["x"], ["y"])], [value("x", ["N", 6])], [value("y", None, INT64)])
    graph = check(model, [constant_folding], {"x": normal(4, 6)})
    assert operators(graph) == ["Shape"]


@pytest.mark.parametrize("condition", [True, False])
def test_constant_condition_selects_a_branch(condition: bool) -> None:
    def branch(name: str, op: str) -> Any:
        kept = numpy_helper.from_array(np.float32(len(op)), "kept")
        nodes = [node(op, ["a"], ["r"])]
        return helper.make_graph(nodes, name, [], [value("r", None), value("kept", [])], [kept])

    choice = node(
        "If", ["c"], ["y", "z"], then_branch=branch("t", "Exp"), else_branch=branch("e", "Relu")
    )
    model = build(
        [node("Neg", ["x"], ["a"]), choice],
        [value("x", [3])],
        [value("y", None), value("z", None)],
        {"c": np.array(condition)},
    )
    steps = [constant_folding, identities]
    graph = check(model, steps, {"x": normal(3)}, rounds=2)
    assert operators(graph) == ["Neg", "Exp" if condition else "Relu"]
    assert [v.name for v in graph.outputs] == ["y", "z"]


def test_folding_reaches_into_subgraphs() -> None:
    body = helper.make_graph(
        [node("Add", ["one", "one"], ["two"]), node("Mul", ["a", "two"], ["r"])],
        "b",
        [],
        [value("r", None)],
    )
    model = build(
        [node("If", ["c"], ["y"], then_branch=body, else_branch=body)],
        [value("a", [3]), value("c", [], TensorProto.BOOL)],
        [value("y", None)],
        {"one": np.float32(1)},
    )
    graph = check(model, [constant_folding], {"a": normal(3), "c": np.array(True)})
    assert operators(graph.nodes[0].attributes["then_branch"]) == ["Mul"]


def test_memory_does_not_grow() -> None:
    model = build(
        [node("ConstantOfShape", ["s"], ["big"]), node("Add", ["big", "x"], ["y"])],
        [value("x", [1])],
        [value("y", None)],
        {"s": np.array([2**20, 2**10], np.int64)},
    )
    graph, (report,) = after(model, [constant_folding])
    assert operators(graph) == ["ConstantOfShape", "Add"]
    assert "too large" in report.notes[0]


def test_random_operators_stay() -> None:
    model = build([node("RandomNormalLike", ["c"], ["y"])], [], [value("y", [2])], {"c": normal(2)})
    graph, _ = after(model, [constant_folding])
    assert operators(graph) == ["RandomNormalLike"]


def test_what_fails_is_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kernel: ReferenceKernel, arrays: Any) -> Any:
        raise RunError("no")

    monkeypatch.setattr(ReferenceKernel, "run", fail)
    model = build([node("Exp", ["c"], ["y"])], [], [value("y", None)], {"c": normal(2)})
    graph, (report,) = after(model, [constant_folding])
    assert operators(graph) == ["Exp"]
    assert "cannot be evaluated: no" in report.notes[0]


def test_outputs_may_be_constants() -> None:
    model = build(
        [node("Add", ["c", "c"], ["y"]), node("Relu", ["x"], ["z"])],
        [value("x", [2])],
        [value("y", [2]), value("z", [2])],
        {"c": normal(2)},
    )
    graph = check(model, [constant_folding, dead_code], {"x": normal(2)})
    assert operators(graph) == ["Relu"]


def test_split_of_a_shape_folds_in_part() -> None:
    model = build(
        [
            node("Shape", ["x"], ["s"]),
            node("Split", ["s"], ["n", "c"], axis=0),
            node("Expand", ["k", "c"], ["y"]),
            node("Identity", ["n"], ["z"]),
        ],
        [value("x", ["N", 3])],
        [value("y", None), value("z", None, INT64)],
        {"k": np.ones(1, np.float32)},
        opset=13,
    )
    feed = {"x": normal(5, 3)}
    graph, _ = after(model, [constant_folding])
    assert graph.outputs[0].is_constant
    assert_equal(interpret(graph, feed), run_oracle(model, feed))

"""Fusion of element-wise operators: what becomes one node, what stays apart and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.graph.ir import Graph
from engine.graph.passes.fuse_elementwise import MAX_INPUTS, MAX_OPERATIONS, fuse_elementwise
from tests.engine.graph.support import (
    after,
    assert_equal,
    build,
    node,
    normal,
    operators,
    run_oracle,
    value,
)
from tests.engine.harness import ISAS

FUSED = "packhorse.Elementwise"


def fused(model: onnx.ModelProto, feed: dict[str, Any]) -> tuple[Graph, list[str]]:
    """Graph after the pass and its notes; the engine must compute what onnxruntime does."""
    graph, (report,) = after(model, (fuse_elementwise,))
    expected = run_oracle(model, feed)
    for isa in ISAS:
        session = engine.load(model.SerializeToString(), threads=1, isa=isa)
        assert_equal(list(session.run(feed).values()), expected)
        session.close()
    return graph, report.notes


def test_chain_becomes_one_node() -> None:
    model = build(
        [
            node("Mul", ["x", "two"], ["a"]),
            node("Add", ["a", "b"], ["c"]),
            node("Tanh", ["c"], ["y"]),
        ],
        [value("x", ["n", 5])],
        [value("y", ["n", 5])],
        {"two": np.array([2.0], np.float32), "b": normal(5)},
    )
    graph, _ = fused(model, {"x": normal(3, 5)})
    assert operators(graph) == [FUSED]
    (made,) = graph.nodes
    assert str(made.attribute("expression")) == "tanh(add(mul(x0, 2), x1))"
    assert [v.name for v in made.inputs if v is not None] == ["x", "b"]


def test_diamond_is_computed_once() -> None:
    model = build(
        [
            node("Add", ["x", "z"], ["a"]),
            node("Sigmoid", ["a"], ["s"]),
            node("Mul", ["a", "s"], ["y"]),
        ],
        [value("x", ["n", 7]), value("z", ["n", 7])],
        [value("y", ["n", 7])],
    )
    graph, _ = fused(model, {"x": normal(4, 7), "z": normal(4, 7, seed=1)})
    assert operators(graph) == [FUSED]
    assert graph.nodes[0].attribute("expression").operations == 3


def test_value_with_another_reader_stays() -> None:
    model = build(
        [
            node("Exp", ["x"], ["a"]),
            node("Neg", ["a"], ["y"]),
            node("ReduceSum", ["a"], ["z"], keepdims=0),
        ],
        [value("x", ["n", 7])],
        [value("y", ["n", 7]), value("z", [])],
    )
    graph, notes = fused(model, {"x": normal(4, 7)})
    assert FUSED not in operators(graph)
    assert any("also read by n_z" in note for note in notes)


def test_output_of_the_graph_stays() -> None:
    model = build(
        [node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["y"])],
        [value("x", ["n", 7])],
        [value("y", ["n", 7]), value("a", ["n", 7])],
    )
    graph, notes = fused(model, {"x": normal(4, 7)})
    assert operators(graph) == ["Exp", "Neg"]
    assert any("leaves the graph" in note for note in notes)


def test_broadcast_value_is_not_computed_again() -> None:
    model = build(
        [node("Exp", ["b"], ["e"]), node("Mul", ["x", "e"], ["a"]), node("Neg", ["a"], ["y"])],
        [value("x", ["n", 7]), value("b", [7])],
        [value("y", ["n", 7])],
    )
    graph, notes = fused(model, {"x": normal(4, 7), "b": normal(7)})
    assert operators(graph) == ["Exp", FUSED]
    assert any("is broadcast" in note for note in notes)


def test_constant_that_adds_an_axis_is_not_lost() -> None:
    model = build(
        [node("Add", ["x", "c"], ["a"]), node("Neg", ["a"], ["y"])],
        [value("x", ["n"])],
        [value("y", [1, "n"])],
        {"c": np.ones((1, 1), np.float32)},
    )
    fused(model, {"x": normal(5)})


def test_long_chains_are_cut_at_the_limits() -> None:
    count = 2 * MAX_OPERATIONS + 5
    nodes = [node("Neg", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    model = build(nodes, [value("x0", [3])], [value(f"x{count}", [3])])
    graph, notes = fused(model, {"x0": normal(3)})
    assert operators(graph) == [FUSED] * 3
    assert any("operations" in note for note in notes)


def test_inputs_are_limited() -> None:
    names = [f"x{i}" for i in range(MAX_INPUTS + 3)]
    nodes = [node("Add", ["x0", "x1"], ["s1"])]
    nodes += [node("Add", [f"s{i - 1}", f"x{i}"], [f"s{i}"]) for i in range(2, len(names))]
    model = build(nodes, [value(n, [6]) for n in names], [value(f"s{len(names) - 1}", [6])])
    graph, notes = fused(model, {n: normal(6, seed=i) for i, n in enumerate(names)})
    assert all(len(n.inputs) <= MAX_INPUTS for n in graph.nodes)
    assert any("more than 8 tensors" in note for note in notes)


def test_types_change_inside_a_group() -> None:
    model = build(
        [
            node("Greater", ["x", "zero"], ["p"]),
            node("Cast", ["p"], ["f"], to=onnx.TensorProto.FLOAT),
            node("Mul", ["f", "x"], ["m"]),
            node("Cast", ["m"], ["y"], to=onnx.TensorProto.INT64),
        ],
        [value("x", ["n", 9])],
        [value("y", ["n", 9], onnx.TensorProto.INT64)],
        {"zero": np.array(0, np.float32)},
    )
    graph, _ = fused(model, {"x": normal(4, 9) * 10})
    assert operators(graph) == [FUSED]


def test_shape_arithmetic_is_left_to_the_dims() -> None:
    model = build(
        [
            node("Shape", ["x"], ["s"]),
            node("Add", ["s", "one"], ["t"]),
            node("Mul", ["t", "one"], ["u"]),
            node("ConstantOfShape", ["u"], ["y"]),
        ],
        [value("x", ["n", 2])],
        [value("y", None)],
        {"one": np.array([1], np.int64)},
    )
    graph, _ = after(model, (fuse_elementwise,))
    assert FUSED not in operators(graph)


OPS = ["Add", "Mul", "Sub", "Max", "Min"]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_random_graphs_keep_their_meaning(data: st.DataObject) -> None:
    """Random DAGs over operands of different broadcast shapes."""
    shapes = {"x": ["n", 3, 5], "b": [3, 1], "c": ["n", 1, 1], "d": [5]}
    known = list(shapes)
    nodes = []
    for i in range(data.draw(st.integers(2, 9))):
        left, right = data.draw(st.sampled_from(known)), data.draw(st.sampled_from(known))
        if data.draw(st.booleans()):
            nodes.append(node(data.draw(st.sampled_from(OPS)), [left, right], [f"v{i}"]))
        else:
            unary = data.draw(st.sampled_from(["Tanh", "Relu", "Neg", "Abs"]))
            nodes.append(node(unary, [left], [f"v{i}"]))
        known.append(f"v{i}")
    outputs = sorted({known[-1], data.draw(st.sampled_from(known[len(shapes) :]))})
    model = build(
        nodes, [value(n, s) for n, s in shapes.items()], [value(n, None) for n in outputs]
    )
    model = onnx.shape_inference.infer_shapes(model)
    n = data.draw(st.sampled_from([1, 2, 4]))
    feed = {
        name: normal(*(n if d == "n" else d for d in shape), seed=i)
        for i, (name, shape) in enumerate(shapes.items())
    }
    expected = run_oracle(model, feed)
    session = engine.load(model.SerializeToString(), threads=1)
    assert_equal(list(session.run(feed).values()), expected)
    session.close()


@pytest.mark.parametrize("isa", ISAS)
def test_a_batch_of_one_broadcasts_against_any(isa: str) -> None:
    """Whether an axis is broadcast is decided per run, by one compiled kernel."""
    model = build(
        [node("Add", ["x", "z"], ["a"]), node("Relu", ["a"], ["y"])],
        [value("x", ["n", "k"]), value("z", ["m", "k"])],
        [value("y", None)],
    )
    session = engine.load(model.SerializeToString(), threads=1, isa=isa)
    for n, m in ((1, 4), (4, 1), (3, 3), (1, 1)):
        feed = {"x": normal(n, 6), "z": normal(m, 6, seed=1)}
        assert_equal(list(session.run(feed).values()), run_oracle(model, feed))
    session.close()

import numpy as np
from onnx import TensorProto, helper

from engine.graph.passes import dead_code
from tests.engine.graph.support import INT64, after, build, check, node, normal, operators, value


def test_unread_nodes_go_inputs_stay() -> None:
    model = build(
        [node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Relu", ["x"], ["y"])],
        [value("x", [2]), value("unused", [2])],
        [value("y", [2])],
    )
    graph = check(model, [dead_code], {"x": normal(2), "unused": normal(2)})
    assert operators(graph) == ["Relu"]
    assert [v.name for v in graph.inputs] == ["x", "unused"]


def test_unread_outputs_lose_their_names() -> None:
    model = build(
        [node("TopK", ["x", "k"], ["v", "i"])],
        [value("x", [4]), value("k", [1], INT64)],
        [value("i", None, INT64)],
    )
    graph, _ = after(model, [dead_code])
    assert [v.name for v in graph.nodes[0].outputs] == ["", "i"]


def test_values_read_inside_subgraphs_are_live() -> None:
    branch = helper.make_graph(
        [node("Neg", ["a"], ["r"]), node("Exp", ["a"], ["dead"])], "b", [], [value("r", None)]
    )
    model = build(
        [
            node("Relu", ["x"], ["a"]),
            node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ],
        [value("x", [2]), value("c", [], TensorProto.BOOL)],
        [value("y", None)],
    )
    graph = check(model, [dead_code], {"x": normal(2), "c": np.array(True)})
    assert operators(graph) == ["Relu", "If"]
    assert operators(graph.nodes[1].attributes["then_branch"]) == ["Neg"]

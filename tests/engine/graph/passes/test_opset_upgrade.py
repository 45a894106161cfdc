from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from engine.graph.passes import opset_upgrade
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

CASES: dict[str, tuple[int, Any, tuple[int, ...], dict[str, Any]]] = {
    "Clip": (6, node("Clip", ["x"], ["y"], min=-0.5, max=0.25), (2, 3), {}),
    "Clip without bounds": (6, node("Clip", ["x"], ["y"]), (2, 3), {}),
    "Pad": (2, node("Pad", ["x"], ["y"], pads=[0, 1, 2, 0], value=0.5), (2, 3), {}),
    "Pad reflect": (2, node("Pad", ["x"], ["y"], pads=[0, 1, 0, 2], mode="reflect"), (2, 3), {}),
    "Slice": (7, node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 9]), (2, 3), {}),
    "Slice axes": (7, node("Slice", ["x"], ["y"], starts=[-2], ends=[3], axes=[1]), (2, 3), {}),
    "Squeeze": (11, node("Squeeze", ["x"], ["y"], axes=[2, 0]), (1, 3, 1), {}),
    "Unsqueeze": (11, node("Unsqueeze", ["x"], ["y"], axes=[0, 3]), (2, 3), {}),
    "Split": (11, node("Split", ["x"], ["y", "z"], axis=1, split=[1, 2]), (2, 3), {}),
    "Split evenly": (11, node("Split", ["x"], ["y", "z"], axis=1), (2, 4), {}),
    "TopK": (9, node("TopK", ["x"], ["y", "z"], k=2), (2, 3), {}),
    "ReduceSum": (11, node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0), (2, 3), {}),
    "ReduceMax all": (11, node("ReduceMax", ["x"], ["y"]), (2, 3), {}),
    "ReduceL2": (17, node("ReduceL2", ["x"], ["y"], axes=[0]), (2, 3), {}),
    "Softmax last": (11, node("Softmax", ["x"], ["y"], axis=2), (2, 3, 4), {}),
    "Softmax middle": (11, node("Softmax", ["x"], ["y"], axis=1), (2, 3, 4), {}),
    "Softmax default": (7, node("Softmax", ["x"], ["y"]), (2, 3, 4), {}),
    "Softmax first": (11, node("Softmax", ["x"], ["y"], axis=0), (2, 3), {}),
    "LogSoftmax": (11, node("LogSoftmax", ["x"], ["y"], axis=1), (2, 3, 4), {}),
    "Hardmax": (11, node("Hardmax", ["x"], ["y"], axis=1), (2, 3, 4), {}),
    "Upsample": (
        7,
        node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0]),
        (1, 2, 3, 3),
        {},
    ),
    "Upsample linear": (
        9,
        node("Upsample", ["x", "s"], ["y"], mode="linear"),
        (1, 2, 3, 3),
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Resize-10": (
        10,
        node("Resize", ["x", "s"], ["y"]),
        (1, 2, 4, 4),
        {"s": np.array([1, 1, 1.3, 1.7], np.float32)},
    ),
    "Resize-10 shrinking": (
        10,
        node("Resize", ["x", "s"], ["y"]),
        (1, 2, 7, 8),
        {"s": np.array([1, 1, 0.6, 0.3], np.float32)},
    ),
    "BatchNormalization": (
        8,
        node("BatchNormalization", ["x", "a", "b", "a", "a"], ["y"], momentum=0.5),
        (2, 3, 4),
        {"a": np.array([1, 2, 3], np.float32), "b": normal(3)},
    ),
    "Scatter": (
        9,
        node("Scatter", ["x", "i", "u"], ["y"], axis=1),
        (2, 3),
        {"i": np.array([[1], [0]], np.int64), "u": normal(2, 1, seed=4)},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("symbolic", [False, True])
def test_meaning_is_kept(name: str, symbolic: bool) -> None:
    opset, middle, shape, constants = CASES[name]
    types = {"z": TensorProto.INT64 if middle.op_type == "TopK" else TensorProto.FLOAT}
    outputs = [value(o, None, types.get(o, TensorProto.FLOAT)) for o in middle.output]
    declared = [f"D{i}" if symbolic and d > 1 else d for i, d in enumerate(shape)]
    if middle.op_type in ("Split", "BatchNormalization"):
        declared = list(shape)
    model = build([middle], [value("x", declared)], outputs, constants, opset=max(opset, 7))
    graph = check(model, [opset_upgrade], {"x": normal(*shape)})
    for each in graph.nodes:
        assert each.op not in ("Upsample", "Scatter")
        assert each.version >= 11
        assert not {"axes", "pads", "starts", "ends", "split", "k"} & each.attributes.keys()


def test_old_broadcasting() -> None:
    model = build(
        [node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)],
        [value("x", [2, 3, 4]), value("b", [3])],
        [value("y", [2, 3, 4])],
        opset=6,
    )
    graph, _ = after(model, [opset_upgrade])
    x, b = normal(2, 3, 4), normal(3, seed=2)
    assert_equal(interpret(graph, {"x": x, "b": b}), [x + b[:, None]])


def test_unknown_rank_keeps_the_old_softmax() -> None:
    model = build(
        [node("Softmax", ["x"], ["y"], axis=-2)], [value("x", None)], [value("y", None)], opset=11
    )
    graph = graph_of(model)
    assert graph.inputs[0].shape is None or graph.nodes[0].version == 11


def test_subgraphs_are_upgraded() -> None:
    branch = helper.make_graph([node("Clip", ["a"], ["r"], min=0.0)], "b", [], [value("r", None)])
    model = build(
        [
            node("Neg", ["x"], ["a"]),
            node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ],
        [value("x", [3]), value("c", [], TensorProto.BOOL)],
        [value("y", None)],
        opset=10,
    )
    feed = {"x": normal(3), "c": np.array(True)}
    graph, _ = after(model, [opset_upgrade])
    assert_equal(interpret(graph, feed), run_oracle(model, feed))
    assert operators(graph.nodes[1].attributes["then_branch"]) == ["Clip"]
    assert graph.nodes[1].attributes["then_branch"].nodes[0].version == 13

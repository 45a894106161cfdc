from typing import Any

import numpy as np
import pytest

from engine.graph.passes import constant_folding, dead_code, layer_norm, opset_upgrade
from tests.engine.graph.support import after, build, check, node, normal, operators, value

STEPS = [opset_upgrade, constant_folding, layer_norm, dead_code]

CONSTANTS = {
    "two": np.float32(2),
    "half": np.float32(0.5),
    "minus": np.float32(-0.5),
    "eps": np.float32(1e-5),
    "one": np.float32(1),
    "g": normal(8, seed=1),
    "b": normal(8, seed=2),
    "axes": np.array([-1], np.int64),
}


def mean(source: str, target: str, opset: int, **attributes: Any) -> Any:
    if opset < 18:
        return node("ReduceMean", [source], [target], axes=[-1], **attributes)
    return node("ReduceMean", [source, "axes"], [target], **attributes)


def writing(opset: int, square: str, root: str, twice: bool) -> list[Any]:
    nodes = [mean("x", "m", opset), node("Sub", ["x", "m"], ["d"])]
    if twice:
        nodes.append(node("Sub", ["x", "m"], ["d2"]))
    base = "d2" if twice else "d"
    other = "two" if square == "Pow" else base
    nodes += [
        node(square, [base, other], ["q"]),
        mean("q", "v", opset),
        node("Add", ["v", "eps"], ["e"]),
    ]
    if root == "Div":
        nodes += [node("Sqrt", ["e"], ["s"]), node("Div", ["d", "s"], ["n"])]
    elif root == "PowDiv":
        nodes += [node("Pow", ["e", "half"], ["s"]), node("Div", ["d", "s"], ["n"])]
    elif root == "Reciprocal":
        nodes += [
            node("Sqrt", ["e"], ["s"]),
            node("Reciprocal", ["s"], ["r"]),
            node("Mul", ["d", "r"], ["n"]),
        ]
    elif root == "OneDiv":
        nodes += [
            node("Sqrt", ["e"], ["s"]),
            node("Div", ["one", "s"], ["r"]),
            node("Mul", ["r", "d"], ["n"]),
        ]
    else:
        nodes += [node("Pow", ["e", "minus"], ["r"]), node("Mul", ["d", "r"], ["n"])]
    return nodes


SCALE = node("Mul", ["g", "n"], ["w"])
SHIFT = node("Add", ["w", "b"], ["y"])


def model_of(nodes: list[Any], opset: int = 17, **constants: Any) -> Any:
    return build(
        nodes,
        [value("x", ["N", "T", 8])],
        [value("y", None)],
        {**CONSTANTS, **constants},
        opset=opset,
    )


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("root", ["Div", "PowDiv", "Reciprocal", "OneDiv", "PowMul"])
@pytest.mark.parametrize("twice", [False, True])
def test_recognised(opset: int, square: str, root: str, twice: bool) -> None:
    model = model_of([*writing(opset, square, root, twice), SCALE, SHIFT], opset)
    graph = check(model, STEPS, {"x": normal(2, 3, 8)})
    assert operators(graph) == ["LayerNormalization"]


def test_without_scale() -> None:
    nodes = [*writing(17, "Pow", "Div", False), node("Neg", ["n"], ["y"])]
    graph = check(model_of(nodes), STEPS, {"x": normal(2, 3, 8)})
    assert operators(graph) == ["LayerNormalization", "Neg"]


def test_without_shift() -> None:
    nodes = [*writing(17, "Pow", "Div", False), SCALE, node("Neg", ["w"], ["y"])]
    graph = check(model_of(nodes), STEPS, {"x": normal(2, 3, 8)})
    assert operators(graph) == ["LayerNormalization", "Neg"]
    assert len(graph.nodes[0].inputs) == 2


def test_scale_of_other_shape_stays() -> None:
    nodes = [*writing(17, "Pow", "Div", False), SCALE, SHIFT]
    graph = check(model_of(nodes, g=normal(1)), STEPS, {"x": normal(2, 3, 8)})
    assert operators(graph) == ["LayerNormalization", "Mul", "Add"]


def test_means_over_other_axes_are_not_matched() -> None:
    nodes = writing(17, "Pow", "Div", False)
    nodes[0] = node("ReduceMean", ["x"], ["m"], axes=[1])
    model = model_of([*nodes, SCALE, SHIFT])
    graph, reports = after(model, STEPS)
    assert "LayerNormalization" not in operators(graph)
    assert any("same last axes" in note for note in reports[2].notes)
    check(model, STEPS, {"x": normal(2, 3, 8)})


def test_other_variance_is_not_matched() -> None:
    nodes = writing(17, "Pow", "Div", False)
    nodes[2] = node("Pow", ["x", "two"], ["q"])
    model = model_of([*nodes, SCALE, SHIFT])
    graph = check(model, STEPS, {"x": normal(2, 3, 8)})
    assert "LayerNormalization" not in operators(graph)

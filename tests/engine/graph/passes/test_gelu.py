import math
from typing import Any

import numpy as np
import pytest

from engine.graph.passes import dead_code, gelu
from tests.engine.graph.support import after, build, check, node, normal, operators, value

CONSTANTS = {
    "half": np.float32(0.5),
    "one": np.float32(1),
    "two": np.array([2], np.float32),
    "three": np.float32(3),
    "root": np.float32(math.sqrt(2)),
    "inverse": np.float32(math.sqrt(0.5)),
    "c": np.float32(0.044715),
    "s": np.float32(math.sqrt(2 / math.pi)),
}

ERF = node("Erf", ["a"], ["e"])
PLUS = node("Add", ["e", "one"], ["p"])
CUBE = [node("Mul", ["x", "x"], ["x2"]), node("Mul", ["x2", "x"], ["x3"])]
INNER = [
    node("Mul", ["c", "x3"], ["k"]),
    node("Add", ["x", "k"], ["t"]),
    node("Mul", ["t", "s"], ["a"]),
    node("Tanh", ["a"], ["e"]),
]

WRITINGS: dict[str, list[Any]] = {
    "divide, x first": [
        node("Div", ["x", "root"], ["a"]),
        ERF,
        PLUS,
        node("Mul", ["x", "p"], ["m"]),
        node("Mul", ["m", "half"], ["y"]),
    ],
    "multiply, half first": [
        node("Mul", ["inverse", "x"], ["a"]),
        ERF,
        node("Add", ["one", "e"], ["p"]),
        node("Mul", ["half", "p"], ["m"]),
        node("Mul", ["m", "x"], ["y"]),
    ],
    "half of x": [
        node("Mul", ["half", "x"], ["h"]),
        node("Div", ["x", "root"], ["a"]),
        ERF,
        PLUS,
        node("Mul", ["h", "p"], ["y"]),
    ],
    "divide by two": [
        node("Div", ["x", "root"], ["a"]),
        ERF,
        PLUS,
        node("Mul", ["x", "p"], ["m"]),
        node("Div", ["m", "two"], ["y"]),
    ],
    "tanh, pow": [
        node("Pow", ["x", "three"], ["x3"]),
        *INNER,
        PLUS,
        node("Mul", ["x", "half"], ["h"]),
        node("Mul", ["h", "p"], ["y"]),
    ],
    "tanh, products": [
        *CUBE,
        *INNER,
        PLUS,
        node("Mul", ["x", "p"], ["m"]),
        node("Mul", ["m", "half"], ["y"]),
    ],
    "tanh, factored": [
        node("Mul", ["x", "x"], ["x2"]),
        node("Mul", ["x2", "c"], ["k"]),
        node("Add", ["k", "one"], ["t"]),
        node("Mul", ["x", "s"], ["xs"]),
        node("Mul", ["xs", "t"], ["a"]),
        node("Tanh", ["a"], ["e"]),
        PLUS,
        node("Mul", ["x", "p"], ["m"]),
        node("Mul", ["m", "half"], ["y"]),
    ],
}


def model_of(nodes: list[Any], **constants: np.ndarray) -> Any:
    return build(nodes, [value("x", ["N", 7])], [value("y", None)], {**CONSTANTS, **constants})


@pytest.mark.parametrize("writing", WRITINGS)
def test_recognised(writing: str) -> None:
    graph = check(model_of(WRITINGS[writing]), [gelu, dead_code], {"x": 3 * normal(5, 7)})
    assert operators(graph) == ["Gelu"]
    assert graph.nodes[0].attribute("approximate") == (
        "tanh" if writing.startswith("tanh") else "none"
    )


@pytest.mark.parametrize(
    ("constants", "reason"),
    [
        ({"root": np.float32(1.5)}, "not x/sqrt"),
        ({"one": np.float32(2)}, "1 is not added"),
        ({"half": np.float32(0.25)}, "not multiplied by x/2"),
    ],
)
def test_other_constants_are_no_gelu(constants: dict[str, Any], reason: str) -> None:
    model = model_of(WRITINGS["divide, x first"], **constants)
    graph, (report,) = after(model, [gelu])
    assert "Gelu" not in operators(graph)
    assert reason in report.notes[0]
    check(model, [gelu], {"x": normal(5, 7)})


def test_other_readers_prevent_it() -> None:
    nodes = [*WRITINGS["divide, x first"][:-1], node("Mul", ["m", "half"], ["g"])]
    nodes.append(node("Add", ["g", "p"], ["y"]))
    graph, (report,) = after(model_of(nodes), [gelu])
    assert "Gelu" not in operators(graph)
    assert "alone" in report.notes[0]


def test_broadcasting_constant_prevents_it() -> None:
    model = model_of(WRITINGS["divide, x first"], half=np.full((1, 1, 1), 0.5, np.float32))
    graph = check(model, [gelu], {"x": normal(5, 7)})
    assert "Gelu" not in operators(graph)

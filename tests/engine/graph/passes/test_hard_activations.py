from typing import Any

import numpy as np
import pytest

from engine.graph.passes import dead_code, hard_activations
from tests.engine.graph.support import after, build, check, node, normal, operators, value

CONSTANTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "three": np.float32(3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "slope": np.float32(0.2),
    "half": np.float32(0.5),
}

PLUS = node("Add", ["x", "three"], ["p"])
CLIP = node("Clip", ["p", "zero", "six"], ["c"])

WRITINGS: dict[str, tuple[list[Any], list[str]]] = {
    "times then over six": (
        [PLUS, CLIP, node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])],
        ["HardSwish"],
    ),
    "over six then times": (
        [PLUS, CLIP, node("Div", ["c", "six"], ["m"]), node("Mul", ["m", "x"], ["y"])],
        ["HardSwish"],
    ),
    "times a sixth": (
        [PLUS, CLIP, node("Mul", ["c", "sixth"], ["m"]), node("Mul", ["x", "m"], ["y"])],
        ["HardSwish"],
    ),
    "scaled before": (
        [
            node("Mul", ["x", "sixth"], ["m"]),
            node("Add", ["m", "half"], ["p"]),
            node("Clip", ["p", "zero", "one"], ["c"]),
            node("Mul", ["c", "x"], ["y"]),
        ],
        ["HardSwish"],
    ),
    "hard sigmoid node": (
        [
            node("HardSigmoid", ["x"], ["c"], alpha=1 / 6, beta=0.5),
            node("Mul", ["c", "x"], ["y"]),
        ],
        ["HardSwish"],
    ),
    "hard sigmoid alone": (
        [PLUS, CLIP, node("Div", ["c", "six"], ["y"])],
        ["HardSigmoid"],
    ),
    "other hard sigmoid": (
        [
            node("Mul", ["x", "slope"], ["m"]),
            node("Add", ["half", "m"], ["p"]),
            node("Clip", ["p", "zero", "one"], ["c"]),
            node("Mul", ["c", "x"], ["y"]),
        ],
        ["HardSigmoid", "Mul"],
    ),
    "silu": (
        [node("Sigmoid", ["x"], ["c"]), node("Mul", ["x", "c"], ["y"])],
        ["packhorse.Silu"],
    ),
}


def model_of(nodes: list[Any], **constants: Any) -> Any:
    return build(nodes, [value("x", ["N", 7])], [value("y", None)], {**CONSTANTS, **constants})


@pytest.mark.parametrize("writing", WRITINGS)
def test_recognised(writing: str) -> None:
    nodes, expected = WRITINGS[writing]
    graph = check(model_of(nodes), [hard_activations, dead_code], {"x": 4 * normal(5, 7)})
    assert operators(graph) == expected


@pytest.mark.parametrize(
    "constants",
    [{"six": np.float32(5)}, {"three": np.float32(2)}, {"zero": np.float32(-1)}],
)
def test_other_constants_are_no_hard_swish(constants: dict[str, Any]) -> None:
    model = model_of(WRITINGS["times then over six"][0], **constants)
    graph = check(model, [hard_activations], {"x": 4 * normal(5, 7)})
    assert "HardSwish" not in operators(graph)


def test_near_matches_have_reasons() -> None:
    silu = [
        *WRITINGS["silu"][0][:1],
        node("Mul", ["x", "c"], ["m"]),
        node("Add", ["m", "c"], ["y"]),
    ]
    graph, (report,) = after(model_of(silu), [hard_activations])
    assert operators(graph) == ["Sigmoid", "Mul", "Add"]
    assert "other readers" in report.notes[0]
    relu6 = [PLUS, CLIP, node("Neg", ["c"], ["y"])]
    graph, (report,) = after(model_of(relu6), [hard_activations])
    assert operators(graph) == ["Add", "Clip", "Neg"]
    assert "not scaled to 1" in report.notes[0]

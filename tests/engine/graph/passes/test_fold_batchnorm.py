from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.passes import dead_code, fold_batchnorm, opset_upgrade
from tests.engine.graph.support import after, build, check, node, normal, operators, value

STEPS = [opset_upgrade, fold_batchnorm, dead_code]


def statistics(channels: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "scale": rng.uniform(0.5, 2, channels).astype(np.float32),
        "shift": rng.standard_normal(channels).astype(np.float32),
        "mean": rng.standard_normal(channels).astype(np.float32),
        "var": rng.uniform(0.1, 2, channels).astype(np.float32),
    }


def batchnorm(source: str, target: str, **attributes: Any) -> Any:
    inputs = [source, "scale", "shift", "mean", "var"]
    return node("BatchNormalization", inputs, [target], **attributes)


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    spatial=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    ratio=st.sampled_from([1, 2]),
    biased=st.booleans(),
    opset=st.sampled_from([8, 9, 14, 17]),
)
def test_convolutions(
    op: str, spatial: int, groups: int, ratio: int, biased: bool, opset: int
) -> None:
    inputs, channels = 4, 4 * ratio
    first, second = (channels, inputs) if op == "Conv" else (inputs, channels)
    constants = {"w": normal(first, second // groups, *(3,) * spatial), **statistics(channels)}
    names = ["x", "w"]
    if biased:
        constants["b"] = normal(channels, seed=3)
        names.append("b")
    model = build(
        [node(op, names, ["c"], group=groups), batchnorm("c", "y", epsilon=1e-3)],
        [value("x", ["N", inputs, *["S"] * spatial])],
        [value("y", None)],
        constants,
        opset=opset,
    )
    graph = check(model, STEPS, {"x": normal(2, inputs, *(5,) * spatial)})
    assert operators(graph) == [op]


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, 2.0]),
    transposed=st.integers(0, 1),
    shape=st.sampled_from([None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)]),
)
def test_gemm(alpha: float, beta: float, transposed: int, shape: tuple[int, ...] | None) -> None:
    constants = {"w": normal(5, 4) if transposed else normal(4, 5), **statistics(5)}
    names = ["x", "w"]
    if shape is not None:
        constants["b"] = np.array(normal(*shape, seed=3))
        names.append("b")
    gemm = node("Gemm", names, ["c"], alpha=alpha, beta=beta, transB=transposed)
    model = build([gemm, batchnorm("c", "y")], [value("x", [3, 4])], [value("y", None)], constants)
    graph = check(model, STEPS, {"x": normal(3, 4)})
    assert operators(graph) == ["Gemm"]


def test_matmul_becomes_gemm() -> None:
    model = build(
        [node("MatMul", ["x", "w"], ["c"]), batchnorm("c", "y")],
        [value("x", ["N", 4])],
        [value("y", None)],
        {"w": normal(4, 5), **statistics(5)},
    )
    graph = check(model, STEPS, {"x": normal(3, 4)})
    assert operators(graph) == ["Gemm"]


@pytest.mark.parametrize("shape", [(), (1,), (6, 1, 1), (1, 6, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div", "swapped Mul", "swapped Add"])
def test_channel_constants(op: str, shape: tuple[int, ...]) -> None:
    operands = ["k", "c"] if op.startswith("swapped") else ["c", "k"]
    model = build(
        [node("Conv", ["x", "w", "b"], ["c"]), node(op.split()[-1], operands, ["y"])],
        [value("x", ["N", 4, "H", "W"])],
        [value("y", None)],
        {"w": normal(6, 4, 3, 3), "b": normal(6), "k": np.array(normal(*shape, seed=5))},
    )
    graph = check(model, STEPS, {"x": normal(2, 4, 5, 6)})
    assert operators(graph) == ["Conv"]


@pytest.mark.parametrize(
    ("op", "operands", "shape"),
    [
        ("Sub", ["k", "c"], (6, 1, 1)),
        ("Div", ["k", "c"], ()),
        ("Add", ["c", "k"], (6,)),
        ("Mul", ["c", "k"], (1, 1, 6)),
        ("Add", ["c", "k"], (2, 1, 6, 1, 1)),
    ],
)
def test_other_constants_stay(op: str, operands: list[str], shape: tuple[int, ...]) -> None:
    model = build(
        [node("Conv", ["x", "w"], ["c"]), node(op, operands, ["y"])],
        [value("x", ["N", 4, "H", "W"])],
        [value("y", None)],
        {"w": normal(6, 4, 3, 3), "k": np.array(normal(*shape, seed=5))},
    )
    graph = check(model, STEPS, {"x": normal(2, 4, 8, 8)})
    assert operators(graph) == ["Conv", op]


def test_chain_folds_in_one_run() -> None:
    model = build(
        [
            node("Conv", ["x", "w"], ["c"]),
            batchnorm("c", "d"),
            node("Mul", ["d", "k"], ["e"]),
            node("Add", ["e", "k"], ["y"]),
        ],
        [value("x", ["N", 4, "H", "W"])],
        [value("y", None)],
        {"w": normal(6, 4, 3, 3), "k": normal(6, 1, 1), **statistics(6)},
    )
    graph = check(model, STEPS, {"x": normal(2, 4, 5, 5)})
    assert operators(graph) == ["Conv"]


def test_shared_weights_are_copied() -> None:
    model = build(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Conv", ["x", "w"], ["c"]),
            batchnorm("c", "d"),
            node("Add", ["a", "d"], ["y"]),
        ],
        [value("x", ["N", 4, 5, 5])],
        [value("y", None)],
        {"w": normal(6, 4, 3, 3), **statistics(6)},
    )
    graph = check(model, STEPS, {"x": normal(2, 4, 5, 5)})
    assert operators(graph) == ["Conv", "Conv", "Add"]


def reasons(model: Any) -> tuple[list[str], list[str]]:
    graph, reports = after(model, [fold_batchnorm])
    return operators(graph), reports[0].notes


def test_other_readers_prevent_folding() -> None:
    model = build(
        [node("Conv", ["x", "w"], ["c"]), batchnorm("c", "y"), node("Neg", ["c"], ["z"])],
        [value("x", ["N", 4, 5, 5])],
        [value("y", None), value("z", None)],
        {"w": normal(6, 4, 3, 3), **statistics(6)},
    )
    ops, notes = reasons(model)
    assert ops == ["Conv", "BatchNormalization", "Neg"]
    assert "other readers" in notes[0]


def test_computed_weights_prevent_folding() -> None:
    model = build(
        [node("Conv", ["x", "w"], ["c"]), batchnorm("c", "y")],
        [value("x", ["N", 4, 5, 5]), value("w", [6, 4, 3, 3])],
        [value("y", None)],
        statistics(6),
    )
    assert "not constant" in reasons(model)[1][0]


def test_training_prevents_folding() -> None:
    model = build(
        [node("Conv", ["x", "w"], ["c"]), batchnorm("c", "y", training_mode=1)],
        [value("x", ["N", 4, 5, 5])],
        [value("y", None)],
        {"w": normal(6, 4, 3, 3), **statistics(6)},
    )
    assert "training mode" in reasons(model)[1][0]

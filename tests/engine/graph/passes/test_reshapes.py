import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.dims import Dim, symbol
from engine.graph.passes import dead_code, opset_upgrade, reshapes, run
from engine.graph.passes.reshapes import reshape_template
from tests.engine.graph.support import build, check, graph_of, node, normal, operators, value


def axes(*items: int) -> np.ndarray:
    return np.array(items, np.int64)


def test_chain_becomes_one_reshape() -> None:
    model = build(
        [
            node("Unsqueeze", ["x", "first"], ["a"]),
            node("Squeeze", ["a", "first"], ["b"]),
            node("Flatten", ["b"], ["c"], axis=2),
            node("Reshape", ["c", "t"], ["d"]),
            node("Neg", ["d"], ["y"]),
        ],
        [value("x", ["N", 2, 6])],
        [value("y", None)],
        {"first": axes(0), "t": axes(-1, 3, 4)},
    )
    graph = check(model, [reshapes, dead_code], {"x": normal(5, 2, 6)})
    assert operators(graph) == ["Reshape", "Neg"]
    assert graph.nodes[0].inputs[1].data.tolist() == [0, 3, 4]


def test_there_and_back_is_nothing() -> None:
    model = build(
        [
            node("Exp", ["x"], ["e"]),
            node("Unsqueeze", ["e", "k"], ["a"]),
            node("Squeeze", ["a", "k"], ["b"]),
            node("Neg", ["b"], ["y"]),
        ],
        [value("x", ["N", "M"])],
        [value("y", None)],
        {"k": axes(1)},
    )
    graph = check(model, [reshapes, dead_code], {"x": normal(2, 3)})
    assert operators(graph) == ["Exp", "Neg"]


def test_two_unknown_sizes_stay() -> None:
    model = build(
        [node("Shape", ["z"], ["s"]), node("Reshape", ["x", "s"], ["y"])],
        [value("x", ["N"]), value("z", ["A", "B"])],
        [value("y", None)],
    )
    graph = check(model, [reshapes], {"x": normal(6), "z": normal(2, 3)})
    assert operators(graph) == ["Shape", "Reshape"]


def test_second_run_changes_nothing() -> None:
    model = build(
        [node("Flatten", ["x"], ["y"], axis=1)], [value("x", ["N", 2, 3])], [value("y", None)]
    )

    graph = graph_of(model)
    assert [r.changes for r in run(graph, [reshapes])] == [1]
    assert [r.changes for r in run(graph, [reshapes])] == [0]


@pytest.mark.parametrize(
    ("source", "result", "template"),
    [
        ((symbol("N"), 6), (symbol("N"), 2, 3), [0, 2, 3]),
        ((symbol("N"), 6), (symbol("N") * 6,), [-1]),
        ((6, symbol("N")), (2, 3, symbol("N")), [2, 3, -1]),
        ((symbol("A"), symbol("B")), (symbol("B"), symbol("A")), None),
        ((symbol("N"), 0), (0, symbol("N")), None),
        ((1,), (), []),
    ],
)
def test_templates(
    source: tuple[Dim | int, ...], result: tuple[Dim | int, ...], template: list[int] | None
) -> None:
    as_dims = [tuple(Dim.of(d) for d in shape) for shape in (source, result)]
    assert reshape_template(as_dims[0], as_dims[1]) == template


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
    dynamic=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from(["u", "s", "f", "r"]), st.integers(0, 4)), max_size=4),
    opset=st.sampled_from([11, 13, 17]),
)
def test_random_chains(
    sizes: list[int], dynamic: bool, steps: list[tuple[str, int]], opset: int
) -> None:
    x = normal(*sizes)
    shape, current, nodes = x, "x", []
    constants = {}
    for index, (kind, number) in enumerate(steps):
        name = f"v{index}"
        if kind == "u":
            axis = number % (shape.ndim + 1)
            shape = np.expand_dims(shape, axis)
        elif kind == "s":
            axis = number % max(shape.ndim, 1)
            if shape.ndim == 0 or shape.shape[axis] != 1:
                continue
            shape = np.squeeze(shape, axis)
        elif kind == "f":
            axis = number % (shape.ndim + 1)
            nodes.append(node("Flatten", [current], [name], axis=axis))
            shape = shape.reshape(int(np.prod(shape.shape[:axis])), -1)
        else:
            constants[f"k{index}"] = axes(-1)
            nodes.append(node("Reshape", [current, f"k{index}"], [name]))
            shape = shape.reshape(-1)
        if kind in "us":
            op = "Unsqueeze" if kind == "u" else "Squeeze"
            if opset < 13:
                nodes.append(node(op, [current], [name], axes=[axis]))
            else:
                constants[f"k{index}"] = axes(axis)
                nodes.append(node(op, [current, f"k{index}"], [name]))
        current = name
    nodes.append(node("Neg", [current], ["y"]))
    # A symbolic size must not be squeezed, so only sizes above 1 are symbolic.
    declared = [f"D{i}" if dynamic and s > 1 else s for i, s in enumerate(sizes)]
    model = build(nodes, [value("x", declared)], [value("y", None)], constants, opset=opset)
    graph = check(model, [opset_upgrade, reshapes, dead_code], {"x": x}, rounds=2)
    assert len(graph.nodes) <= len(nodes)

from collections.abc import Callable

import numpy as np
import pytest

from engine.graph.dims import Dim, symbol
from engine.graph.ir import Graph, Node, Value
from engine.graph.verify import GraphError, verify


def chain() -> Graph:
    """x -> Relu -> a -> Add(a, k) -> y."""
    x = Value("x", np.dtype(np.float32), (symbol("N"), Dim.of(3)))
    k = Value("k", np.dtype(np.float32), (Dim.of(3),), np.ones(3, np.float32))
    a, y = Value("a"), Value("y")
    relu = Node("Relu", [x], [a], version=14)
    add = Node("Add", [a, k], [y], version=14)
    a.producer, y.producer = relu, add
    return Graph("g", [x], [y], [relu, add])


def nested() -> Graph:
    graph = chain()
    a = graph.nodes[0].outputs[0]
    r, z = Value("r"), Value("z")
    inner = Node("Neg", [a], [r], version=13)
    r.producer = inner
    branch = Graph("b", [], [r], [inner], captures=[a])
    node = Node("If", [a], [z], {"then_branch": branch}, version=16)
    z.producer = node
    graph.nodes.append(node)
    graph.outputs.append(z)
    return graph


def branch_of(graph: Graph) -> Graph:
    branch = graph.nodes[2].attributes["then_branch"]
    assert isinstance(branch, Graph)
    return branch


def constant(graph: Graph) -> Value:
    value = graph.nodes[1].inputs[1]
    assert value is not None
    return value


def test_whole_graphs_pass() -> None:
    verify(chain())
    verify(nested())


def swap(g: Graph) -> None:
    g.nodes[:2] = g.nodes[1::-1]


def foreign(g: Graph) -> None:
    g.nodes[1].inputs[0] = Value("foreign")


def same_name(g: Graph) -> None:
    g.nodes[0].outputs[0].name = "x"


def wrong_producer(g: Graph) -> None:
    g.nodes[0].outputs[0].producer = g.nodes[1]


def input_with_producer(g: Graph) -> None:
    g.inputs[0].producer = g.nodes[0]


def wrong_dtype(g: Graph) -> None:
    constant(g).dtype = np.dtype(np.float64)


def wrong_shape(g: Graph) -> None:
    constant(g).shape = (Dim.of(4),)


def computed_constant(g: Graph) -> None:
    g.nodes[0].outputs[0].data = np.ones(1)


def undefined_output(g: Graph) -> None:
    g.outputs.append(Value("nowhere"))


def dangling_capture(g: Graph) -> None:
    branch_of(g).captures.append(g.inputs[0])


def unlisted_capture(g: Graph) -> None:
    branch_of(g).captures.clear()


def unavailable_capture(g: Graph) -> None:
    stranger = Value("stranger")
    branch_of(g).captures.append(stranger)
    branch_of(g).nodes[0].inputs.append(stranger)


def name_taken_inside(g: Graph) -> None:
    branch_of(g).outputs[0].name = "y"


def float_dims(g: Graph) -> None:
    g.inputs[0].dims = (Dim.of(1),)


def wrong_dims(g: Graph) -> None:
    g.inputs.append(Value("s", np.dtype(np.int64), (Dim.of(2),), dims=(Dim.of(1),)))


def dims_against_data(g: Graph) -> None:
    value = constant(g)
    value.data, value.dtype = np.arange(3), np.dtype(np.int64)
    value.dims = (Dim.of(0), Dim.of(1), Dim.of(7))


def no_version(g: Graph) -> None:
    g.nodes[0].version = 0


def twice(g: Graph) -> None:
    g.nodes.append(g.nodes[0])


def plain_shape(g: Graph) -> None:
    g.inputs[0].shape = (3, 4)  # type: ignore[assignment]


def unknown_kind(g: Graph) -> None:
    g.inputs[0].kind = "thing"


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (swap, "before it is defined"),
        (foreign, "before it is defined"),
        (same_name, "two values are called 'x'"),
        (wrong_producer, "another producer"),
        (input_with_producer, "has a producer"),
        (wrong_dtype, "data type of 'k'"),
        (wrong_shape, "shape of 'k'"),
        (computed_constant, "producer|constant"),
        (undefined_output, "'nowhere' of 'g' is not defined"),
        (dangling_capture, "'x' of 'b' is not read"),
        (unlisted_capture, "before it is defined"),
        (unavailable_capture, "'stranger' of 'b' is not available outside"),
        (name_taken_inside, "two values are called 'y'"),
        (float_dims, "has dims but holds float32"),
        (wrong_dims, "1 dims for shape"),
        (dims_against_data, "not its data"),
        (no_version, "has no version"),
        (twice, "defined twice"),
        (plain_shape, "not a tuple of dims"),
        (unknown_kind, "unknown kind"),
    ],
    ids=lambda item: item.__name__ if callable(item) else "",
)
def test_broken_graphs_fail(damage: Callable[[Graph], None], rule: str) -> None:
    graph = nested()
    damage(graph)
    with pytest.raises(GraphError, match=rule):
        verify(graph)

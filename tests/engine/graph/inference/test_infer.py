"""Inference as a whole: its guards, its errors, what stays unknown, and its speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelError
from engine.graph.dims import Dim, DimError, ceildiv, symbol
from engine.graph.inference import Guard, infer
from engine.graph.reader import read
from tests.engine.graph.inference.support import (
    assert_equals_run,
    by_name,
    graph_of,
    shape_text,
)


def test_required_equalities_become_guards() -> None:
    graph, _ = graph_of(
        "g (float[N, K] x, float[L, M] w, float[N, M] b) => (y) "
        "<> { p = MatMul(x, w) y = Concat<axis=1>(p, b, x) }"
    )
    guards = infer(graph)
    assert [(str(guard.left), str(guard.right)) for guard in guards] == [("K", "L")]
    assert "'p' (MatMul)" in guards[0].message
    assert shape_text(graph.outputs[0]) == ["N", "K + 2*M"]


def test_broadcast_that_may_fail_is_guarded() -> None:
    graph, _ = graph_of("g (float[N, 4] x, float[4] c, float[A, B] z) => (y, q) "
                        "{ t = Transpose(z) y = Add(x, z) q = Mul(z, c) }")  # fmt: skip
    guards = infer(graph)
    values = by_name(graph)
    assert shape_text(values["y"]) == ["broadcast(A, N)", "4"]
    assert shape_text(values["q"]) == ["A", "4"]
    sizes = {"A": 1, "B": 3, "N": 5}
    assert [guard.message for guard in guards if fails(guard, sizes)]
    assert not [guard for guard in guards if fails(guard, {**sizes, "B": 1})]


def fails(guard: Guard, sizes: dict[str, int]) -> bool:
    try:
        return guard.left.evaluate(sizes) != guard.right.evaluate(sizes)
    except DimError:
        return True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = MatMul(x, w)", "'y' (MatMul): the inner axes of the matrix product do not match"),
        ("y = Add(x, w)", "do not broadcast: 4 and 5"),
        ("y = Add(x, i)", "input B ('i') is tensor(int64), but must be tensor(float) like 'x'"),
        ("y = BitwiseAnd(x, x)", "(BitwiseAnd): input A ('x') is tensor(float)"),
        ("y = Softmax<axis=4>(x)", "axis 4 is outside a tensor of rank 2"),
        ("y = Concat<axis=0>(x, w)", "the inputs at axis 1 do not match: 4 and 5"),
        ("y = Transpose<perm=[0, 0]>(x)", "perm [0, 0] is no permutation of 2 axes"),
        ("s = Constant<value=int64[2] {-1, -1}>() y = Reshape(x, s)", "two entries of -1"),
        ("s = Constant<value=int64[1] {7}>() y = Reshape(w, s)", "number of elements"),
        ("y = Conv(x, w)", "input has rank 2"),
        ("k = Constant<value=int64[1] {9}>() y, j = TopK<axis=1>(x, k)", "k is 9"),
        ("s = Constant<value=int64[1] {3}>() y = Gather<axis=0>(x, s) z = Add(y, i)", "like"),
        ("s = Constant<value=int64[1] {1}>() y = Squeeze(x, s)", "the squeezed axis 1 and 1"),
        ("y = Gemm<transB=1>(x, w)", "the inner axes of A and B do not match"),
    ],
)
def test_contradictions_name_the_node(body: str, message: str) -> None:
    graph, _ = graph_of(
        f"g (float[N, 4] x, int64[N, 4] i) => (y) <float[5, 5] w = {{{'1,' * 24}1}}> {{ {body} }}"
    )
    with pytest.raises(ModelError) as caught:
        infer(graph)
    assert message in str(caught.value)
    assert "node '" in str(caught.value)


def test_data_dependent_sizes_are_symbols_named_after_their_value() -> None:
    graph, _ = graph_of(
        "g (float[N, 4] x) => (y, u) { n = NonZero(x) t = Transpose(n) y = GatherND(x, t) "
        "u, a, b, c = Unique<axis=1>(x) }"
    )
    for _ in range(2):  # the names do not change when inference runs again
        assert infer(graph) == []
        values = by_name(graph)
        assert shape_text(values["n"]) == ["2", "n_dim_1"]
        assert shape_text(values["y"]) == ["n_dim_1"]
        assert shape_text(values["u"]) == ["N", "u_dim_count"]
        assert values["n"].dtype == np.int64


def test_fresh_symbols_avoid_those_of_the_inputs() -> None:
    graph, _ = graph_of("g (float[n_dim_1, 4] x) => (n) { n = NonZero(x) }")
    infer(graph)
    assert shape_text(graph.outputs[0]) == ["2", "n_dim_1_"]


def test_resize_by_computed_sizes() -> None:
    graph, content = graph_of(
        "g (float[N, 3, H, W] x) => (y) { s = Shape<start=2>(x) f = Cast<to=1>(s) "
        "k = Constant<value=float[2] {1.5, 0.5}>() m = Mul(f, k) r = Floor(m) i = Cast<to=7>(r) "
        "h = Shape<end=2>(x) z = Concat<axis=0>(h, i) y = Resize(x, , , z) }"
    )
    infer(graph)
    assert shape_text(graph.outputs[0]) == ["N", "3", "scaled_floor(H, 1.5)", "(W//2)"]
    assert_equals_run(graph, content, {"N": 2, "H": 5, "W": 9})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Sub(s, k) y = Div(a, k)", None),  # rounds towards zero, where a dim rounds down
        ("a = Add(s, k) y = Div(a, k)", ["(N//4) + 1", "2"]),
        (
            "c = Equal(s, k) y = Where(c, k, k2)",
            ["3*minimum(1, maximum(-N + 4, N - 4)) + 4", "4"],
        ),
        ("n = Neg(k) c = Equal(s, n) y = Where(c, k, s)", ["N", "4"]),
        ("a = Add(s, k) c = Less(s, a) y = Where(c, s, k)", ["N", "4"]),
        (
            "c = Less(s, k) y = Where(c, s, k)",
            ["N*minimum(1, maximum(0, -N + 4)) - 4*minimum(1, maximum(0, -N + 4)) + 4", "4"],
        ),
        ("y = Abs(s)", ["N", "4"]),
        ("a = Sub(s, k) y = Abs(a)", None),
        ("f = Cast<to=1>(s) g = Sqrt(f) y = Cast<to=7>(g)", None),
    ],
)
def test_what_is_not_decided_stays_unknown(body: str, expected: list[str] | None) -> None:
    graph, _ = graph_of(
        "g (float[N, 4] x) => (y) { s = Shape(x) k = Constant<value=int64[1] {4}>() "
        f"k2 = Constant<value=int64[1] {{7}}>() {body} }}"
    )
    infer(graph)
    found = graph.outputs[0].dims
    assert (None if found is None else [str(dim) for dim in found]) == expected


def test_declared_shapes_stay_where_no_rule_knows() -> None:
    graph, _ = graph_of("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    graph.nodes[0].domain = "com.example"
    graph.nodes[0].outputs[0].shape = (symbol("N"), Dim.of(2))
    infer(graph)
    assert shape_text(graph.outputs[0]) == ["N", "2"]


def test_a_model_of_1500_nodes_takes_well_under_a_second() -> None:
    nodes, tensors = [], []
    for index in range(300):
        source = f"a{index}"
        tensors.append(numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), f"w{index}"))
        stride = 2 if index % 100 == 99 else 1
        nodes += [
            helper.make_node(
                "Conv", [source, f"w{index}"], [f"c{index}"], pads=[1] * 4, strides=[stride] * 2
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
            helper.make_node("Shape", [f"r{index}"], [f"s{index}"]),
            helper.make_node("Reshape", [f"c{index}", f"s{index}"], [f"q{index}"]),
            helper.make_node("Add", [f"q{index}", f"r{index}"], [f"a{index + 1}"]),
        ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info("a0", TensorProto.FLOAT, ["N", 8, "H", "W"])],
            [helper.make_tensor_value_info("a300", TensorProto.FLOAT, None)],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    graph = read(model.SerializeToString())
    assert len(graph.nodes) == 1500
    began = time.process_time()
    guards = infer(graph)
    elapsed = time.process_time() - began
    assert guards == []
    size = ceildiv(symbol("H"), 8)
    assert graph.outputs[0].shape == (symbol("N"), Dim.of(8), size, ceildiv(symbol("W"), 8))
    assert elapsed < 1.0

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engine.errors import ModelError, RunError
from engine.graph.ir import OURS, Node, Value
from engine.graph.passes import opset_upgrade, run
from engine.runtime.blas import limit_blas_threads
from engine.runtime.reference import ReferenceKernel
from tests.engine.graph.support import (
    INT64,
    assert_equal,
    build,
    graph_of,
    interpret,
    node,
    normal,
    run_oracle,
    value,
)

BOOL = TensorProto.BOOL


def kernel(op: str, *dtypes: Any, version: int = 17, **attributes: Any) -> ReferenceKernel:
    inputs = [Value(f"x{i}", np.dtype(d)) for i, d in enumerate(dtypes)]
    return ReferenceKernel(Node(op, list(inputs), [Value("y")], attributes, version=version))


def test_one_node() -> None:
    (result,) = kernel("Add", np.float32, np.float32).run([normal(2, 3), normal(3)])
    assert_equal(result, normal(2, 3) + normal(3))


def test_defaults_are_those_of_the_version() -> None:
    x = normal(2, 3, 4)
    (flat,) = kernel("Softmax", np.float32, version=11).run([x])
    (last,) = kernel("Softmax", np.float32, version=13).run([x])
    assert_equal(flat.reshape(2, -1).sum(1), np.ones(2, np.float32))
    assert_equal(last.sum(-1), np.ones((2, 3), np.float32))


def test_outputs_have_the_declared_type() -> None:
    made = kernel("Sqrt", np.float32)
    made.node.outputs[0].dtype = np.dtype(np.float16)
    assert made.run([np.ones(2, np.float32)])[0].dtype == np.float16


def test_errors_name_node_and_shapes() -> None:
    with pytest.raises(RunError, match=r"node 'y' \(MatMul\).*float32\[2, 3\], float32\[2, 3\]"):
        kernel("MatMul", np.float32, np.float32).run([normal(2, 3), normal(2, 3)])


def test_numeric_warnings_are_silent() -> None:
    (result,) = kernel("Log", np.float32).run([np.array([0, -1], np.float32)])
    assert np.isneginf(result[0])
    assert np.isnan(result[1])


@pytest.mark.parametrize(("domain", "op"), [("com.microsoft", "FusedConv"), (OURS, "Nothing")])
def test_operator_without_implementation_is_refused_at_load(domain: str, op: str) -> None:
    with pytest.raises(ModelError, match=f"{domain}.{op}"):
        ReferenceKernel(Node(op, [Value("x")], [Value("y")], domain=domain, version=1))


def test_operators_defined_by_functions() -> None:
    x = normal(2, 3)
    (result,) = kernel("HardSwish", np.float32, version=14).run([x])
    assert_equal(result, x * np.clip(x / 6 + 0.5, 0, 1))
    (result,) = kernel("ThresholdedRelu", np.float32, version=22, alpha=0.5).run([x])
    assert_equal(result, np.where(x > 0.5, x, np.float32(0)))


def test_blas_threads_are_limited() -> None:
    assert limit_blas_threads(1)


def loop_model(trip: bool, condition: bool) -> Any:
    """Adds x to a sum, collects matrices [2, 3]; ends when the sum exceeds a limit."""
    body = helper.make_graph(
        [
            node("Add", ["s", "x"], ["s2"]),
            node("ReduceMax", ["s2"], ["largest"], keepdims=0),
            node("Less", ["largest", "limit"], ["go"]),
            node("Mul", ["s2", "k"], ["row"]),
        ],
        "body",
        [value("i", [], INT64), value("c", [], BOOL), value("s", [2, 3])],
        [value("go", [], BOOL), value("s2", [2, 3]), value("row", [2, 3])],
    )
    names = ["n" if trip else "", "start" if condition else "", "zero"]
    return build(
        [node("Loop", names, ["total", "rows"], body=body)],
        [value("x", [2, 3]), value("n", [], INT64), value("start", [], BOOL)],
        [value("total", None), value("rows", None)],
        {
            "zero": np.zeros((2, 3), np.float32),
            "limit": np.float32(3),
            "k": np.float32(2),
        },
    )


@pytest.mark.parametrize("trip", [True, False])
@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("start", [True, False])
def test_loop(trip: bool, condition: bool, count: int, start: bool) -> None:
    model = loop_model(trip, condition)
    feed = {"x": np.abs(normal(2, 3)), "n": np.int64(count), "start": np.array(start)}
    feed = {k: np.asarray(v) for k, v in feed.items()}
    assert_equal(interpret(graph_of(model), feed), run_oracle(model, feed))


@settings(max_examples=30, deadline=None)
@given(
    in_axis=st.integers(0, 2),
    out_axis=st.sampled_from([0, 1, -1]),
    in_direction=st.integers(0, 1),
    out_direction=st.integers(0, 1),
)
def test_scan(in_axis: int, out_axis: int, in_direction: int, out_direction: int) -> None:
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["s2"]), node("Mul", ["s2", "k"], ["row"])],
        "body",
        [value("s", None), value("e", None)],
        [value("s2", None), value("row", None)],
    )
    shape = (2, 3, 4)
    rest = [d for axis, d in enumerate(shape) if axis != in_axis]
    scan = node(
        "Scan",
        ["zero", "x"],
        ["last", "rows"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[in_axis],
        scan_input_directions=[in_direction],
        scan_output_axes=[out_axis],
        scan_output_directions=[out_direction],
    )
    model = build(
        [scan],
        [value("x", shape), value("k", [])],
        [value("last", None), value("rows", None)],
        {"zero": np.zeros(rest, np.float32)},
    )
    feed = {"x": normal(*shape), "k": np.asarray(np.float32(3))}
    assert_equal(interpret(graph_of(model), feed), run_oracle(model, feed))


def test_sequence_map() -> None:
    body = helper.make_graph(
        [node("Add", ["e", "t"], ["r"])],
        "body",
        [value("e", None), value("t", None)],
        [value("r", None)],
    )
    model = build(
        [
            node("SequenceConstruct", ["x", "z"], ["s"]),
            node("SequenceMap", ["s", "z"], ["m"], body=body),
            node("ConcatFromSequence", ["m"], ["y"], axis=0),
        ],
        [value("x", ["N", 3]), value("z", ["M", 3])],
        [value("y", None)],
    )
    feed = {"x": normal(1, 3), "z": normal(1, 3, seed=1)}
    expected = np.concatenate([feed["x"] + feed["z"], feed["z"] + feed["z"]])
    assert_equal(interpret(graph_of(model), feed), [expected])


def test_captures_are_operands() -> None:
    model = loop_model(True, True)
    graph = graph_of(model)
    run(graph, [opset_upgrade])
    made = ReferenceKernel(graph.nodes[0])
    assert [v.name for v in made.operands if v is not None] == ["n", "start", "zero", "x"]

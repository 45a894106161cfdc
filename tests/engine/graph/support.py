"""Small ONNX models for tests, and what they must compute."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from engine.graph import passes
from engine.graph.ir import Graph
from engine.graph.passes import Pass, PassReport
from engine.graph.reader import read
from engine.runtime.reference import Interpreter

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), name=f"n_{outputs[0]}", **attributes)


def value(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def build(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    opset: int = 17,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    initialisers = [numpy_helper.from_array(a, k) for k, a in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initialisers)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    model.ir_version = 10
    return model


def graph_of(model: onnx.ModelProto) -> Graph:
    return read(model.SerializeToString())


def run_oracle(model: onnx.ModelProto | bytes, feed: Mapping[str, Any]) -> list[Any]:
    """What onnxruntime computes."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def interpret(graph: Graph, feed: Mapping[str, Any]) -> list[Any]:
    return Interpreter(graph).run([feed[v.name] for v in graph.inputs])


def assert_equal(actual: Any, expected: Any) -> None:
    """Equality in the sense of the project: exact but for floats, which have a tolerance."""
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_equal(left, right)
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind != "f":
        assert np.array_equal(actual, expected)
        return
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    if expected.size:
        largest = np.nanmax(np.abs(expected), initial=0.0)
        difference = np.nanmax(np.abs(actual.astype(np.float64) - expected), initial=0.0)
        assert difference <= 1e-4 * largest + 1e-5


def after(
    model: onnx.ModelProto, steps: Sequence[Pass], rounds: int = 1
) -> tuple[Graph, list[PassReport]]:
    graph = graph_of(model)
    return graph, passes.run(graph, steps, rounds)


def check(
    model: onnx.ModelProto, steps: Sequence[Pass], feed: Mapping[str, Any], rounds: int = 1
) -> Graph:
    """Graph after passes, which must compute what onnxruntime computes on the model."""
    graph, _ = after(model, steps, rounds)
    assert_equal(interpret(graph, feed), run_oracle(model, feed))
    return graph


def operators(graph: Graph) -> list[str]:
    return [n.key for n in graph.nodes]


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

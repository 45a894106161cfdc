"""Forms that models come in: old operator sets, initialisers as inputs, functions, half weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine

NESTED = """
<ir_version: 9, opset_import: ["" : 18, "mine" : 1]>
g (float[N, 4] x) => (float[N, 4] y) {
  y = mine.outer <scale = 2.5> (x)
}
<domain: "mine", opset_import: ["" : 17, "mine" : 1]>
outer <scale> (a) => (b) {
  factor = Constant<value_float : float = @scale>()
  m = mine.inner(a)
  n = mine.inner(m)
  b = Mul(n, factor)
}
<domain: "mine", opset_import: ["" : 17]>
inner (c) => (d) {
  axes = Constant<value = int64[1] {1}>()
  s = ReduceSum<keepdims = 1>(c, axes)
  t = Sub(c, s)
  d = Tanh(t)
}
"""


def check(data: bytes, **feeds: np.ndarray) -> engine.Session:
    session = engine.load(data, threads=1)
    assert session.explain().fallback_count == 0
    wanted = onnxruntime.InferenceSession(data).run(None, feeds)
    found = session.run(feeds)
    for output, array in zip(session.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[output.name], array, rtol=1e-4, atol=1e-5)
    return session


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_functions_inside_functions() -> None:
    check(onnx.parser.parse_model(NESTED).SerializeToString(), x=data(3, 4))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 13, 18, onnx.defs.onnx_opset_version()])
def test_operator_sets_and_initialisers_that_are_inputs(opset: int, listed: bool) -> None:
    w, b = data(4, 6), data(6)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    if listed:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 6]))
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["p"]),
            helper.make_node("Softmax", ["p"], ["s"], axis=1),
            helper.make_node("Dropout", ["s"], ["d"]),
            helper.make_node("Transpose", ["d"], ["y"], perm=[1, 0]),
        ],
        "forms",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, "N"])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    # Before version 4 of the format every initialiser had to be an input.
    version = 4 if opset < 9 else 8
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version
    )
    x = data(3, 4)
    session = engine.load(model.SerializeToString(), threads=1)
    assert [spec.name for spec in session.inputs] == ["x"]
    assert session.explain().fallback_count == 0
    product = np.exp(x @ w + b)
    wanted = (product / product.sum(1, keepdims=True)).T
    np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)],
)
def test_half_weights_are_converted_when_they_are_packed(element: int, dtype: type) -> None:
    w = data(16, 8).astype(dtype)
    weight = helper.make_tensor("w", element, w.shape, w.tobytes(), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "wide"], ["y"]),
        ],
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = engine.load(model.SerializeToString(), threads=1)
    assert [operation.kernel for operation in session.explain().operations] == ["dot"]
    packed = session.stats()["packs_total"]
    x = data(5, 16)
    for _ in range(2):
        found = session.run({"x": x})["y"]
        np.testing.assert_allclose(found, x @ w.astype(np.float32), rtol=1e-5, atol=1e-5)
    assert session.stats()["packs_total"] == packed == 1

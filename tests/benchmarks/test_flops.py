import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.flops import FlopCounter
from benchmarks.models import MODELS

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes, inputs, weights):
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_grouped_strided_convolution():
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, group=2)
    counter = FlopCounter(model([node], {"x": ["n", 4, "h", 10]}, {"w": zeros(6, 2, 3, 3)}))
    # Output [3, 6, 4, 5], each element a sum of 2 * 3 * 3 products.
    assert counter.count({"n": 3, "h": 7}) == 2 * (3 * 6 * 4 * 5) * 18


def test_transposed_convolution():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    counter = FlopCounter(model([node], {"x": ["n", 4, 5, 6]}, {"w": zeros(4, 3, 2, 2)}))
    assert counter.count({"n": 2}) == 2 * (2 * 4 * 5 * 6) * (3 * 2 * 2)


def test_matrix_products_and_element_wise_work():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], transB=1),
    ]
    weights = {"w": zeros(8, 5), "v": zeros(3, 5)}
    counter = FlopCounter(model(nodes, {"x": ["n", 8]}, weights))
    assert counter.count({"n": 7}) == 2 * 7 * 8 * 5 + 2 * 7 * 5 * 3


def test_bidirectional_lstm():
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], hidden_size=6, direction="bidirectional"
    )
    weights = {"w": zeros(2, 24, 5), "r": zeros(2, 24, 6)}
    counter = FlopCounter(model([node], {"x": ["t", "n", 5]}, weights))
    assert counter.count({"t": 4, "n": 3}) == 2 * 4 * 3 * 2 * (4 * 6) * (5 + 6)


def test_shapes_that_are_computed_in_the_graph_are_followed():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["row"]),
        helper.make_node("Concat", ["row", "tail"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["split"]),
        helper.make_node("MatMul", ["split", "w"], ["y"]),
    ]
    weights = {
        "zero": np.array(0),
        "axes": np.array([0]),
        "tail": np.array([2, 3]),
        "w": zeros(3, 4),
    }
    counter = FlopCounter(model(nodes, {"x": ["n", 6]}, weights))
    assert counter.count({"n": 5}) == 2 * (5 * 2 * 4) * 3


def test_a_shape_that_depends_on_data_is_an_error():
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"], name="find"),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("MatMul", ["w", "f"], ["y"], name="product"),
    ]
    counter = FlopCounter(model(nodes, {"x": ["n", 6]}, {"w": zeros(3, 2)}))
    with pytest.raises(ValueError, match=r"'product' \(MatMul\): shape of 'y' is unknown"):
        counter.count({"n": 5})


def test_benchmark_models_against_published_multiply_adds():
    mobilenet = FlopCounter(MODELS["mobilenet_v2"].build())
    count = mobilenet.count({"batch": 1, "height": 224, "width": 224})
    # Sandler et al. 2018, table 4: 300 million multiply-adds.
    assert count / 2 == pytest.approx(300e6, rel=0.02)


def test_the_model_given_is_not_changed():
    given = MODELS["mlp"].build()
    before = given.SerializeToString()
    assert FlopCounter(given).count({"batch": 2}) == 2 * FlopCounter(given).count({"batch": 1})
    assert onnx.load_from_string(before) == given

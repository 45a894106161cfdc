import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.models import MODELS, case_inputs, case_name, model_path, select

HEAVY = {"resnet50", "vgg16", "bert_base"}
ALL = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in MODELS]
FLOAT32 = onnx.TensorProto.FLOAT


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", ALL)
def test_model_is_valid_and_its_answers_are_informative(name, folder):
    model = MODELS[name]
    path = model_path(model, folder)
    onnx.checker.check_model(str(path), full_check=True)
    inputs = case_inputs(model, model.tiny)
    loaded = session(path)
    again = {key: value[::-1].copy() for key, value in inputs.items()}
    for output, reversed_output in zip(
        loaded.run(None, inputs), loaded.run(None, again), strict=True
    ):
        assert np.isfinite(output).all()
        assert 0.05 < output.std() < 5
        assert np.abs(output).max() < 50
        if model.tiny["batch"] > 1:
            assert not np.allclose(output, reversed_output, atol=0.01), "rows all answer alike"


@pytest.mark.parametrize("name", ALL)
def test_symbolic_dims_are_those_of_the_cases(name, folder):
    model = MODELS[name]
    graph = onnx.load(model_path(model, folder), load_external_data=False).graph
    symbols = {
        dim.dim_param
        for value in graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    for dims in (*model.cases, model.tiny, model.ranges):
        assert set(dims) == symbols


def test_convolutions_keep_their_batch_normalisations(folder):
    nodes = onnx.load(model_path(MODELS["mobilenet_v2"], folder)).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("Conv") == kinds.count("BatchNormalization") == 52


def test_batch_normalisation_normalises_what_really_arrives(folder):
    model = onnx.load(model_path(MODELS["mobilenet_v2"], folder))
    first = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    last = [node for node in model.graph.node if node.op_type == "BatchNormalization"][-1]
    for node in (first, last):
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], FLOAT32, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    loaded = onnxruntime.InferenceSession(model.SerializeToString(), options)
    dims = {"batch": 2, "height": 96, "width": 96}
    inputs = case_inputs(MODELS["mobilenet_v2"], dims)
    for values in loaded.run([first.output[0], last.output[0]], inputs):
        assert abs(values.mean()) < 0.3
        assert 0.6 < values.std() < 1.6


def test_building_twice_gives_the_same_weights():
    first, second = (MODELS["mlp"].build().SerializeToString() for _ in range(2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_a_built_file_is_reused_and_leaves_no_partial_one(tmp_path):
    path = model_path(MODELS["mlp"], tmp_path)
    written = path.stat().st_mtime_ns
    assert model_path(MODELS["mlp"], tmp_path) == path
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]


def test_inputs_depend_on_the_case_alone():
    model = MODELS["encoder"]
    dims = {"batch": 3, "length": 9}
    first, second = case_inputs(model, dims), case_inputs(model, dict(reversed(dims.items())))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert first["mask"][0].all()
    other = case_inputs(model, {"batch": 3, "length": 10})
    assert not np.array_equal(other["ids"][:, :9], first["ids"])


def test_case_names():
    assert case_name({"batch": 8}) == "b8"
    assert case_name({"batch": 1, "length": 128}) == "b1 l128"
    assert case_name({"batch": 1, "height": 270, "width": 480}) == "b1 270x480"
    assert case_name({"batch": 8, "width": 320}) == "b8 w320"


def test_selection_keeps_the_order_of_the_registry_and_refuses_unknown_names():
    assert [model.name for model in select("mlp, pnet")] == ["pnet", "mlp"]
    assert len(select(None)) == len(MODELS)
    with pytest.raises(ValueError, match="unknown model alexnet; known: resnet50"):
        select("alexnet,mlp")

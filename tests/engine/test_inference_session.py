"""The adapter beside onnxruntime's own session: same calls, same answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import engine
from engine.model_metadata import read_metadata
from tests.conftest import ROOT
from tests.engine.equality import assert_equal
from tests.engine.models import serialise, tensor

DIGITS = ROOT / "examples/digits/digits.onnx"


def two_inputs() -> bytes:
    """y = x + cast(k), z = upper-left corner's sign; axes fixed, named and unnamed."""
    nodes = [
        helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
        helper.make_node("Greater", ["y", "x"], ["z"]),
    ]
    inputs = [tensor("x", ["n", 3]), tensor("k", ["n", 1], TensorProto.INT64)]
    model = onnx.ModelProto.FromString(serialise(nodes, inputs, ["y", "z"], name="adding"))
    model.graph.input[1].type.tensor_type.shape.dim[0].ClearField("value")
    model.producer_name, model.domain, model.model_version = "tests", "org.example", 7
    model.doc_string, model.graph.doc_string = "adds", "one node too many"
    helper.set_model_props(model, {"author": "someone", "labels": "a,b"})
    return model.SerializeToString()


def both(model: bytes | str, **options: Any) -> tuple[engine.InferenceSession, Any]:
    theirs = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return engine.InferenceSession(model, **options), theirs


def same(found: Any, wanted: Any) -> None:
    for first, second in zip(found, wanted, strict=True):
        assert_equal(first, second)


FEED = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "k": np.array([[1], [-2]])}


@pytest.fixture(scope="module")
def sessions() -> tuple[engine.InferenceSession, Any]:
    return both(two_inputs())


def described(args: Any) -> list[tuple[str, str, list[Any]]]:
    return [(arg.name, arg.type, arg.shape) for arg in args]


def test_inputs_and_outputs_are_described_alike(
    sessions: tuple[engine.InferenceSession, Any],
) -> None:
    ours, theirs = sessions
    assert described(ours.get_inputs()) == described(theirs.get_inputs())
    assert [(o.name, o.type, len(o.shape)) for o in ours.get_outputs()] == [
        (o.name, o.type, len(o.shape)) for o in theirs.get_outputs()
    ]
    assert ours.get_overridable_initializers() == theirs.get_overridable_initializers() == []


@pytest.mark.parametrize("names", [None, [], ["z"], ["z", "y"], ["y", "y"]])
def test_runs_give_the_same(sessions: tuple[engine.InferenceSession, Any], names: Any) -> None:
    ours, theirs = sessions
    same(ours.run(names, FEED), theirs.run(names, FEED))


@pytest.mark.parametrize("path", [DIGITS, str(DIGITS)])
def test_a_file_classifies_alike(path: Any) -> None:
    ours, theirs = both(path)
    assert described(ours.get_inputs()) == described(theirs.get_inputs())
    image = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    same(ours.run(None, {"image": image}), theirs.run(None, {"image": image}))


METADATA = (
    "producer_name graph_name domain description graph_description version custom_metadata_map"
)


@pytest.mark.parametrize("model", [two_inputs(), DIGITS.read_bytes()], ids=["made", "digits"])
def test_metadata_is_the_same(model: bytes, tmp_path: Path) -> None:
    theirs = onnxruntime.InferenceSession(model).get_modelmeta()
    path = tmp_path / "m.onnx"
    path.write_bytes(model)
    for ours in (read_metadata(model), read_metadata(path)):
        for name in METADATA.split():
            assert getattr(ours, name) == getattr(theirs, name), name


def test_metadata_of_damaged_files_is_an_error() -> None:
    model = two_inputs()
    for cut in range(len(model)):
        for damaged in (model[:cut], model[:cut] + b"\xff" + model[cut + 1 :]):
            try:
                read_metadata(damaged)
            except engine.ModelError:
                continue


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.FLOAT16, "tensor(float16)"),
        (TensorProto.BFLOAT16, "tensor(bfloat16)"),
        (TensorProto.DOUBLE, "tensor(double)"),
        (TensorProto.BOOL, "tensor(bool)"),
        (TensorProto.INT8, "tensor(int8)"),
        (TensorProto.UINT16, "tensor(uint16)"),
        (TensorProto.STRING, "tensor(string)"),
    ],
)
def test_element_types_have_onnxruntimes_names(kind: int, name: str) -> None:
    model = serialise([helper.make_node("Identity", ["x"], ["y"])], [tensor("x", [2], kind)], ["y"])
    ours, theirs = both(model)
    assert ours.get_inputs()[0].type == theirs.get_inputs()[0].type == name
    assert ours.get_outputs()[0].type == theirs.get_outputs()[0].type == name


def test_sequences() -> None:
    node = helper.make_node("SequenceAt", ["s", "i"], ["y"])
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
    infos = [helper.make_value_info("s", kind), tensor("i", [], TensorProto.INT64)]
    model = serialise([node], infos, ["y"])
    ours, theirs = both(model)
    assert described(ours.get_inputs()) == described(theirs.get_inputs())
    feed = {"s": [np.ones(2, np.float32), np.zeros(3, np.float32)], "i": np.array(1)}
    same(ours.run(None, feed), theirs.run(None, feed))


def test_what_is_wrong_with_a_feed_is_an_error(
    sessions: tuple[engine.InferenceSession, Any],
) -> None:
    for session in sessions:
        for feed in (
            {"x": FEED["x"]},
            {**FEED, "other": FEED["x"]},
            {**FEED, "x": FEED["x"].astype(np.float64)},
            {**FEED, "x": FEED["x"][:, :2]},
        ):
            with pytest.raises(Exception):  # noqa: B017, PT011 - the two have no type in common
                session.run(None, feed)
        with pytest.raises(Exception):  # noqa: B017, PT011
            session.run(["nothing"], FEED)
    with pytest.raises(engine.InputError, match="input 'k' is missing"):
        sessions[0].run(None, {"x": FEED["x"]})


def test_options_set_the_threads() -> None:
    theirs = onnxruntime.SessionOptions()
    theirs.intra_op_num_threads = 1
    ours = engine.SessionOptions(intra_op_num_threads=1)
    ours.add_session_config_entry("session.x", "1")
    assert ours.get_session_config_entry("session.x") == "1"
    for options in (theirs, ours):
        session = engine.InferenceSession(two_inputs(), options)
        assert session.session.stats()["threads"] == 1
        assert session.get_session_options() is options


def test_there_is_one_provider() -> None:
    assert engine.get_available_providers() == ["CPUExecutionProvider"]
    session = engine.InferenceSession(two_inputs(), providers=[("CPUExecutionProvider", {})])
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert list(session.get_provider_options()) == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="only CPUExecutionProvider"):
        engine.InferenceSession(two_inputs(), providers=["CUDAExecutionProvider"])
    with pytest.raises(engine.InputError, match="provider 3"):
        session.set_providers([(3, {})])


def test_run_async_calls_back(sessions: tuple[engine.InferenceSession, Any]) -> None:
    for session in sessions:
        found: list[Any] = []
        done = threading.Event()

        def callback(
            results: Any, data: Any, error: str, found: Any = found, done: Any = done
        ) -> None:
            found.extend((list(results), data, error))
            done.set()

        session.run_async(["y"], FEED, callback, "mine")
        assert done.wait(20)
        same(found[0], sessions[1].run(["y"], FEED))
        assert found[1:] == ["mine", ""]
    errors: list[str] = []
    failed = threading.Event()
    sessions[0].run_async(
        None, {}, lambda results, data, error: (errors.append(error), failed.set()), None
    )
    assert failed.wait(20)
    assert "input 'x' is missing" in errors[0]


def test_bound_arrays(sessions: tuple[engine.InferenceSession, Any]) -> None:
    expected = sessions[1].run(None, FEED)
    target, source = np.zeros((2, 3), np.float32), FEED["x"].copy()
    for session in sessions:
        target[:] = 0
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, source.shape, source.ctypes.data)
        binding.bind_cpu_input("k", FEED["k"])
        binding.bind_output("z")
        binding.bind_output("y", "cpu", 0, np.float32, target.shape, target.ctypes.data)
        session.run_with_iobinding(binding)
        same(binding.copy_outputs_to_cpu(), expected[::-1])
        same([target], expected[:1])
        assert [value.shape() for value in binding.get_outputs()] == [[2, 3], [2, 3]]
    ours = sessions[0].io_binding()
    with pytest.raises(engine.InputError, match="no input 'w'"):
        ours.bind_cpu_input("w", source)
    with pytest.raises(engine.InputError, match="only 'cpu'"):
        ours.bind_output("y", "cuda")
    ours.bind_ortvalue_input("x", engine.OrtValue.ortvalue_from_numpy(source))
    ours.bind_cpu_input("k", FEED["k"])
    ours.bind_ortvalue_output("y", engine.OrtValue(np.zeros((2, 2), np.float32)))
    with pytest.raises(engine.InputError, match="the memory bound to it"):
        sessions[0].run_with_iobinding(ours)


def test_values_of_onnxruntime_are_taken(sessions: tuple[engine.InferenceSession, Any]) -> None:
    feed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in FEED.items()}
    same(sessions[0].run(None, feed), sessions[1].run(None, FEED))

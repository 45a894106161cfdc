"""The stock Triton client, unmodified, against a real server."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from api.protocol.datatypes import DTYPES
from tests.api.gateway.conftest import RunningServer
from tests.cluster import small_models


@pytest.fixture
def client(shared: RunningServer):
    with shared.client() as client:
        yield client


def tensor(name: str, array: np.ndarray, *, binary: bool, datatype: str):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


X = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("identity")
    assert client.is_model_ready("versions", "3")
    assert not client.is_model_ready("versions", "2")
    assert not client.is_model_ready("nobody")


def test_metadata(client):
    server = client.get_server_metadata()
    assert server["name"] == "packhorse"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(server["extensions"])
    assert client.get_model_metadata("versions") == {
        "name": "versions",
        "versions": ["1", "3"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}],
    }
    assert client.get_model_metadata("text", "1")["inputs"][0]["datatype"] == "BYTES"


def test_config(client):
    config = client.get_model_config("versions")
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}]
    assert "dynamic_batching" in config
    alone = client.get_model_config("fixed", "1")
    assert alone["max_batch_size"] == 0
    assert alone["input"][0]["dims"] == [4]
    assert client.get_model_config("text")["input"][0]["data_type"] == "TYPE_STRING"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("request_encoding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_encoding", [None, "gzip", "deflate"])
def test_infer(client, binary_in, binary_out, request_encoding, response_encoding):
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer(
        "versions",
        [tensor("x", X, binary=binary_in, datatype="FP32")],
        outputs=outputs,
        request_id="abc",
        request_compression_algorithm=request_encoding,
        response_compression_algorithm=response_encoding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), X * np.float32(3))
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("abc", "versions", "3")
    assert ("data" in answer["outputs"][0]) == (binary_out is False)


def test_versions(client):
    inputs = [tensor("x", X, binary=True, datatype="FP32")]
    for version, factor in (("1", 2), ("3", 3), ("", 3)):
        result = client.infer("versions", inputs, model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), X * np.float32(factor))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_every_datatype(client, shared, datatype, binary):
    dtype = DTYPES[datatype]
    if datatype == "BOOL":
        array = np.array([[True, False], [False, True]])
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        array = np.array([[info.min, info.max], [0, 1]], dtype)
    else:
        array = np.array([[-1.5, 0.25], [2.0, 3.140625]], dtype)
    model = "identity" if datatype == "FP32" else f"identity_{datatype}"
    if datatype in ("FP16", "BF16") and not binary:
        content = {"name": "x", "shape": [2, 2], "datatype": datatype, "data": array.tolist()}
        answer = shared.infer(model, {"inputs": [content]}).json()["outputs"][0]
        assert answer["data"] == array.astype(np.float32).reshape(-1).tolist()
        return
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer(
        model, [tensor("x", array, binary=binary, datatype=datatype)], outputs=outputs
    )
    np.testing.assert_array_equal(result.as_numpy("y").astype(dtype), array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client, binary):
    values = ["", "plain", "äöü ☃", "with\0null", "x" * 3000]
    array = np.array([value.encode() for value in values], object)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer(
        "text", [tensor("x", array, binary=binary, datatype="BYTES")], outputs=outputs
    )
    found = result.as_numpy("y").tolist()
    assert [item if isinstance(item, bytes) else item.encode() for item in found] == array.tolist()


def test_bytes_that_are_not_text_come_back_unchanged(client):
    array = np.array([bytes(range(256)), b"\xff\xfe"], object)
    result = client.infer("text", [tensor("x", array, binary=True, datatype="BYTES")])
    assert result.as_numpy("y").tolist() == array.tolist()
    outputs = [triton.InferRequestedOutput("y", binary_data=False)]
    with pytest.raises(InferenceServerException, match=r"not UTF-8.*binary_data"):
        client.infer("text", [tensor("x", array, binary=True, datatype="BYTES")], outputs=outputs)


def test_several_inputs_and_outputs(client):
    a, b = np.arange(8, dtype=np.int32).reshape(2, 4), np.full((2, 4), 3, np.int32)
    inputs = [
        tensor("b", b, binary=False, datatype="INT32"),
        tensor("a", a, binary=True, datatype="INT32"),
    ]
    outputs = [
        triton.InferRequestedOutput("difference", binary_data=True),
        triton.InferRequestedOutput("sum", binary_data=False),
    ]
    result = client.infer("sum_and_difference", inputs, outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(result.as_numpy("difference"), a - b)
    names = [output["name"] for output in result.get_response()["outputs"]]
    assert names == ["difference", "sum"]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1)])
@pytest.mark.parametrize("binary", [True, False])
def test_empty_tensors(client, shape, binary):
    """Mirrors Triton's L0_infer_zero."""
    array = np.ones(shape, np.float32)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer(
        "identity", [tensor("x", array, binary=binary, datatype="FP32")], outputs=outputs
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_scalars(client):
    """Mirrors Triton's L0_scalar_io."""
    array = np.array(2.5, np.float32)
    result = client.infer("scalar", [tensor("x", array, binary=True, datatype="FP32")])
    assert result.as_numpy("y") == array
    assert result.as_numpy("y").shape == ()


def test_errors_decode(client):
    wrong = [tensor("x", X.astype(np.float64), binary=True, datatype="FP64")]
    with pytest.raises(InferenceServerException, match="must be float32") as error:
        client.infer("identity", wrong)
    assert error.value.status() == "400"
    with pytest.raises(InferenceServerException, match="unknown model 'nobody'") as error:
        client.get_model_metadata("nobody")
    assert error.value.status() == "404"
    with pytest.raises(InferenceServerException, match="no version '9'"):
        client.infer("versions", wrong, model_version="9")
    with pytest.raises(InferenceServerException, match="does not exist"):
        client.infer(
            "identity",
            [tensor("x", X, binary=True, datatype="FP32")],
            outputs=[triton.InferRequestedOutput("z")],
        )


def test_optional_extensions_are_refused_readably(client):
    for call in (
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException, match="no such resource"):
            call()
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    with pytest.raises(InferenceServerException, match="classification") as error:
        client.infer("identity", [tensor("x", X, binary=True, datatype="FP32")], outputs=wanted)
    assert error.value.status() == "501"


def test_statistics(client):
    before = client.get_inference_statistics("flat")["model_stats"][0]
    array = np.ones(5, np.float32)
    for _ in range(3):
        client.infer("flat", [tensor("x", array, binary=True, datatype="FP32")])
    with pytest.raises(InferenceServerException):
        client.infer("flat", [tensor("x", X, binary=True, datatype="FP32")])
    (after,) = client.get_inference_statistics("flat", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 15
    assert after["execution_count"] - before["execution_count"] == 3
    stats = after["inference_stats"]
    assert stats["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert stats["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    parts = [stats[k]["ns"] for k in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert 0 < sum(parts) <= stats["success"]["ns"]
    sizes = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert sizes[5] == 3
    assert after["last_inference"] > 1.6e12
    every = client.get_inference_statistics()["model_stats"]
    assert {"flat", "identity", "versions"} <= {entry["name"] for entry in every}


def test_repository_index(client):
    index = client.get_model_repository_index()
    states = {(entry["name"], entry["version"]): entry["state"] for entry in index}
    assert states[("versions", "1")] == states[("versions", "3")] == "READY"


def test_repository_control(start):
    server = start({"scale": small_models.scale(2)})
    with server.client() as client:
        inputs = [tensor("x", X, binary=True, datatype="FP32")]
        client.unload_model("scale")
        assert not client.is_model_ready("scale")
        assert client.is_server_ready()
        assert client.get_model_repository_index() == [
            {"name": "scale", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        with pytest.raises(InferenceServerException, match="not ready") as error:
            client.infer("scale", inputs)
        assert error.value.status() == "503"
        small_models.store(server.repository, "scale", small_models.scale(4), 2)
        client.load_model("scale")
        assert client.get_model_metadata("scale")["versions"] == ["2"]
        np.testing.assert_array_equal(
            client.infer("scale", inputs).as_numpy("y"), X * np.float32(4)
        )
        client.load_model("scale", config=json.dumps({"max_batch_size": 5, "versions": "all"}))
        assert client.get_model_config("scale")["max_batch_size"] == 5
        assert client.is_model_ready("scale", "1")
        with pytest.raises(InferenceServerException, match="allowed keys"):
            client.load_model("scale", config='{"backend": "python"}')
        with pytest.raises(InferenceServerException, match="not taken from requests"):
            client.load_model("scale", config="{}", files={"file:1/model.onnx": b"x"})
        small_models.store(server.repository, "scale", small_models.scale(4), 3).write_bytes(b"x")
        with pytest.raises(InferenceServerException, match="'scale' version 3"):
            client.load_model("scale")
        assert client.is_model_ready("scale", "2")
        for name in ("nobody", "../scale", "scale/1", "%2e%2e"):
            with pytest.raises(InferenceServerException):
                client.load_model(name)
            with pytest.raises(InferenceServerException):
                client.unload_model(name)


def test_many_requests_from_many_threads(shared):
    with shared.client(concurrency=8) as client:
        arrays = [np.full((1, 2 + i % 3), i, np.float32) for i in range(48)]
        pending = [
            client.async_infer("identity", [tensor("x", a, binary=True, datatype="FP32")])
            for a in arrays
        ]
        for array, answer in zip(arrays, pending, strict=True):
            np.testing.assert_array_equal(answer.get_result().as_numpy("y"), array)


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
async def test_asyncio_client(shared, encoding):
    address = shared.url.removeprefix("http://")
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_model_ready("identity")
        assert (await client.get_model_metadata("identity"))["name"] == "identity"
        assert await client.get_model_repository_index()
        for binary in (True, False):
            result = await client.infer(
                "identity",
                [tensor("x", X, binary=binary, datatype="FP32")],
                request_compression_algorithm=encoding,
                response_compression_algorithm=encoding,
            )
            np.testing.assert_array_equal(result.as_numpy("y"), X)
        with pytest.raises(InferenceServerException, match="unknown model"):
            await client.infer("nobody", [tensor("x", X, binary=True, datatype="FP32")])


@pytest.mark.parametrize(
    ("encoding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
def test_answers_are_compressed_only_when_that_alone_is_asked_for(shared, encoding, unpack):
    content = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
    for accept, compressed in ((encoding, True), ("gzip, deflate, br", False), ("br", False)):
        with shared.http.stream(
            "POST",
            "/v2/models/identity/infer",
            json=content,
            headers={"Accept-Encoding": accept},
        ) as response:
            raw = b"".join(response.iter_raw())
            assert response.headers.get("content-encoding") == (encoding if compressed else None)
        assert json.loads(unpack(raw) if compressed else raw)["outputs"][0]["data"] == [1.0]


def test_a_classifier_with_its_zip_map(client):
    outputs = client.get_model_metadata("classifier")["outputs"]
    assert outputs == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "BYTES", "shape": [-1]},
    ]
    x = np.array([[1, 0.25], [1, 0.75], [9, 0.5]], np.float32)
    for binary in (True, False):
        names = ("label", "probabilities")
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        given = [tensor("x", x, binary=binary, datatype="FP32")]
        result = client.infer("classifier", given, outputs=outputs)
        labels = result.as_numpy("label").tolist()
        assert [s.decode() if binary else s for s in labels] == ["ant", "dog", "ant"]
        rows = [json.loads(text) for text in result.as_numpy("probabilities")]
        assert rows[0] == rows[2] == {"ant": 0.75, "cat": 0.125, "dog": 0.125}
        assert rows[1] == {"ant": 0.125, "cat": 0.25, "dog": 0.625}


def element(*shape: int) -> dict[str, object]:
    data = [0.5 * i for i in range(int(np.prod(shape)))]
    return {"datatype": "float32", "shape": list(shape), "data": data}


def texts(name: str, *elements: object):
    array = np.array([json.dumps(each).encode() for each in elements], object)
    return tensor(name, array.reshape(-1), binary=True, datatype="BYTES")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_sequences_and_optionals_are_texts(client, count):
    given = [element(2, index) for index in range(count)]
    x = tensor("x", X[:, :2], binary=True, datatype="FP32")
    for maybe in ([], [element(3)]):
        result = client.infer("insertion", [texts("sequence", *given), x, texts("maybe", *maybe)])
        assert bool(result.as_numpy("given")) == bool(maybe)
        *before, last = [json.loads(text) for text in result.as_numpy("longer")]
        assert before == given
        np.testing.assert_array_equal(np.reshape(last["data"], last["shape"]), X[:, :2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([[1, 2]], "must be an object with 'shape' and 'data'"),
        ([{"shape": [2], "data": [1]}], "1 numbers do not make an element of shape"),
        ([{"shape": [1], "data": ["a"]}], "must be flat, of type float32"),
        ([{"datatype": "int8", "shape": [1], "data": [1]}], "is of type 'int8'"),
    ],
)
def test_what_is_no_element_is_refused(client, wrong, message):
    x = tensor("x", X[:, :2], binary=True, datatype="FP32")
    with pytest.raises(InferenceServerException, match=message):
        client.infer("insertion", [texts("sequence", *wrong), x, texts("maybe")])
    with pytest.raises(InferenceServerException, match="it takes one at most"):
        client.infer("insertion", [texts("sequence"), x, texts("maybe", element(1), element(1))])

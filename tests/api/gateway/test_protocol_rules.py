"""What a request may and may not say; the cases of Triton's L0_http that apply, by their names."""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.gateway.conftest import RunningServer
from tests.cluster import small_models


def one(shape: Any, data: Any, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["error"]
    for word in words:
        assert word in content["error"], content["error"]


def raw(shared: RunningServer, model: str, body: bytes, length: str | int = 0) -> httpx.Response:
    headers = {"Inference-Header-Content-Length": str(length)}
    return shared.http.post(f"/v2/models/{model}/infer", content=body, headers=headers)


def binary_part(response: httpx.Response) -> bytes:
    assert response.status_code == 200, response.text
    return response.content[int(response.headers["inference-header-content-length"]) :]


@pytest.mark.parametrize("count", [8, 32])
def test_raw_binary(shared, count):
    body = np.arange(count, dtype=np.float32).tobytes()
    assert binary_part(raw(shared, "flat", body)) == body


def test_content_encoding_chunked_manually(shared):
    body = np.arange(8, dtype=np.float32).tobytes()
    response = shared.http.post(
        "/v2/models/flat/infer",
        content=iter([body[:5], body[5:]]),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert binary_part(response) == body


def test_byte(shared):
    assert binary_part(raw(shared, "one_text", b"427")) == b"\x03\0\0\x00427"


def test_byte_too_many_elements(shared):
    refused(raw(shared, "text", b"427"), 400, "'x'", "exactly one element")


def test_multi_variable_dimensions(shared):
    refused(raw(shared, "identity", bytes(16)), 400, "'x'", "ambiguous")


def test_multi_inputs(shared):
    refused(raw(shared, "sum_and_difference", bytes(16)), 400, "one input, this one has 2")


@pytest.mark.parametrize("size", [1, 7, 15])
def test_raw_binary_of_a_wrong_size(shared, size):
    refused(raw(shared, "flat", bytes(size)), 400, f"{size} bytes")
    refused(raw(shared, "fixed", bytes(size)), 400, "needs 16")


def test_buffer_size_overflow(shared):
    for shape in ([2**4, 2**60 + 2], [2**2, 2**60 + 2], [0, 2**63], [2**62]):
        refused(shared.infer("identity", {"inputs": [one(shape, [1.0])]}), 400, "limit of")
        part = {"parameters": {"binary_data_size": 4}}
        entry = one(shape, None) | part
        del entry["data"]
        head = json.dumps({"inputs": [entry]}).encode()
        refused(raw(shared, "identity", head + bytes(4), len(head)), 400, "limit of")


def test_negative_dimensions(shared):
    refused(shared.infer("identity", {"inputs": [one([2, -5], [1.0])]}), 400, "'x'", "negative")


@pytest.mark.parametrize("shape", [None, "2", [1.5], [True], ["1"], {}, [[1]], [1] * 33])
def test_malformed_shapes(shared, shape):
    refused(shared.infer("identity", {"inputs": [one(shape, [1.0])]}), 400, "'x'", "'shape'")


@pytest.mark.parametrize(("datatype", "value"), [("BYTES", "hello"), ("INT64", 123)])
@pytest.mark.parametrize(("depth", "fits"), [(50, True), (90, True), (120, False), (5000, False)])
def test_json_recursion_depth_limit(shared, datatype, value, depth, fits):
    model, shape = ("text", [1]) if datatype == "BYTES" else ("identity_INT64", [1, 1])
    data = "[" * depth + json.dumps(value) + "]" * depth
    body = json.dumps({"inputs": [one(shape, "DATA", datatype)]}).replace('"DATA"', data)
    response = shared.http.post(f"/v2/models/{model}/infer", content=body)
    if fits:
        assert response.json()["outputs"][0]["data"] == [value]
    else:
        refused(response, 400, "nested deeper than 100")


def test_brackets_in_strings_are_no_nesting(shared):
    text = "[{" * 400 + '\\" "'
    answer = shared.infer("text", {"inputs": [one([1], [text], "BYTES")]}).json()
    assert answer["outputs"][0]["data"] == [text]


def test_repository_index_deeply_nested_json(shared):
    body = '{"ready":' + "[" * 5000 + "]" * 5000 + "}"
    refused(shared.http.post("/v2/repository/index", content=body), 400, "nested deeper")


def test_duplicate_output_names(shared):
    content = {"inputs": [one([1, 1], [1])], "outputs": [{"name": "y"}, {"name": "y"}]}
    refused(shared.infer("identity", content), 400, "'y'", "twice")


@pytest.mark.parametrize("length", ["-1", "x", "1.5", "", "99999999999999999999", "²", "1e3", "+1"])
def test_inference_header_content_length_malformed(shared, length):
    headers = [(b"Inference-Header-Content-Length", length.encode("latin-1", "replace"))]
    if length == "²":
        headers = [(b"Inference-Header-Content-Length", b"\xb2")]
    response = shared.http.post("/v2/models/identity/infer", content=b"{}", headers=headers)
    refused(response, 400, "Inference-Header-Content-Length")


def test_inference_header_content_length_out_of_range(shared):
    body = json.dumps({"inputs": [one([1, 1], [1])]}).encode()
    for length in (len(body) + 1, 2**31, 2**53):
        refused(raw(shared, "identity", body, length), 400, f"has {len(body)} bytes")
    refused(raw(shared, "identity", body, len(body) - 1), 400, "not valid JSON")
    refused(raw(shared, "identity", body + b"1234", len(body)), 400, "4 bytes", "no input")
    assert raw(shared, "identity", body, len(body)).status_code == 200


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "nan", "1e999"])
def test_numbers_that_json_does_not_have(shared, token):
    body = json.dumps({"inputs": [one([1, 1], ["DATA"])]}).replace('"DATA"', token)
    response = shared.http.post("/v2/models/identity/infer", content=body)
    words = ["binary data"] if token in ("NaN", "Infinity", "-Infinity") else []
    refused(response, 400, "not valid JSON", *words)


def test_nan_and_infinity_in_answers(shared):
    """Mirrors Triton's L0_nan_inf: JSON answers carry the tokens that Python's parser reads."""
    values = np.array([0.0, -0.0, 2, np.nan], np.float32)
    head = json.dumps(
        {"inputs": [one([4], None) | {"parameters": {"binary_data_size": 16}}]}
    ).replace('"data": null, ', "")
    response = raw(shared, "reciprocal", head.encode() + values.tobytes(), len(head))
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(
            json.loads(response.text)["outputs"][0]["data"], np.reciprocal(values)
        )


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("FP32", ["1"], "strings"),
        ("FP32", [True], "booleans"),
        ("FP32", [None], "null"),
        ("FP32", [{}], "objects"),
        ("FP32", [1e300], "out of range for FP32"),
        ("FP16", [1e5], "out of range for FP16"),
        ("FP32", [10**400], "not valid JSON"),
        ("INT8", [128], "out of range for INT8"),
        ("INT8", [-129], "out of range for INT8"),
        ("UINT64", [-1], "out of range for UINT64"),
        ("INT64", [2**63], "out of range for INT64"),
        ("INT64", [1.5], "fractions"),
        ("INT64", [1.0], "fractions"),
        ("INT64", [True], "booleans"),
        ("BOOL", [2], "true, false, 0 or 1"),
        ("BOOL", ["true"], "strings"),
        ("BYTES", [1], "integers"),
        ("FP32", [1, 2], "2 elements"),
        ("FP32", [], "0 elements"),
        ("FP32", [[1], 2], "ragged"),
        ("FP32", [[1, 2], [3]], "ragged"),
        ("FP32", ["x" * 100_000] + [1] * 100_000, "100001 elements"),
    ],
)
def test_data_that_does_not_fit(shared, datatype, data, words):
    model = {"FP32": "identity", "BYTES": "text"}.get(datatype, f"identity_{datatype}")
    shape = [1] if datatype == "BYTES" else [1, 1]
    refused(shared.infer(model, {"inputs": [one(shape, data, datatype)]}), 400, words)


def test_large_unsigned_integers_are_exact(shared):
    data = [2**64 - 1, 2**63, 0, 1]
    answer = shared.infer("identity_UINT64", {"inputs": [one([4, 1], data, "UINT64")]})
    assert answer.json()["outputs"][0]["data"] == data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "JSON object"),
        ({}, "'inputs'"),
        ({"inputs": {}}, "'inputs'"),
        ({"inputs": [1]}, "element 0"),
        ({"inputs": [{"shape": [1]}]}, "'name'"),
        ({"inputs": []}, "input 'x' is missing"),
        ({"inputs": [one([1, 1], [1]), one([1, 1], [1])]}, "twice"),
        ({"inputs": [one([1, 1], [1], "FP8")]}, "'datatype'"),
        ({"inputs": [one([1, 1], [1], [])]}, "'datatype'"),
        ({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32"}]}, "neither"),
        ({"inputs": [one([1, 1], [1], parameters={"binary_data_size": 4})]}, "both"),
        ({"inputs": [one([1, 1], [1], parameters=[])]}, "'parameters'"),
        ({"inputs": [one([1, 1], [1]) | {"name": "z"}]}, "input 'x' is missing; got 'z'"),
        ({"inputs": [one([1, 1], [1]), one([1], [1]) | {"name": "z"}]}, "no input 'z'"),
        ({"inputs": [one([1], [1])]}, "must have 2: [N, D]"),
        ({"inputs": [one([1, 1], [1])], "outputs": 1}, "'outputs'"),
        ({"inputs": [one([1, 1], [1])], "outputs": [{}]}, "'outputs' element 0"),
        ({"inputs": [one([1, 1], [1])], "id": 7}, "'id'"),
        ({"inputs": [one([1, 1], [1])], "parameters": 7}, "'parameters'"),
        ({"inputs": [one([1, 1], [1])], "parameters": {"priority": -1}}, "'priority'"),
        ({"inputs": [one([1, 1], [1])], "parameters": {"timeout": "soon"}}, "'timeout'"),
        ({"inputs": [one([1, 1], [1])], "parameters": {"binary_data_output": 1}}, "binary_data"),
    ],
)
def test_malformed_requests(shared, content, words):
    refused(shared.infer("identity", content), 400, words)


@pytest.mark.parametrize("size", [-1, 3, 5, 8, 2**70, "4", 4.0, True])
def test_binary_sizes_that_do_not_fit(shared, size):
    entry = {"name": "x", "shape": [1, 1], "datatype": "FP32"}
    entry["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [entry]}).encode()
    refused(raw(shared, "identity", head + bytes(4), len(head)), 400, "binary")


@pytest.mark.parametrize(
    "data", [b"\x05\0\0\0abc", b"\xff\xff\xff\xff", b"\0\0\0\0\0", b"\x01\0\0", b""]
)
def test_binary_strings_that_do_not_fit(shared, data):
    entry = {"name": "x", "shape": [1], "datatype": "BYTES"}
    entry["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [entry]}).encode()
    refused(raw(shared, "text", head + data, len(head)), 400, "'x'", "BYTES element")


def test_booleans_that_are_not_0_or_1_are_true(shared):
    entry = {"name": "x", "shape": [1, 3], "datatype": "BOOL"}
    entry["parameters"] = {"binary_data_size": 3}
    head = json.dumps({"inputs": [entry]}).encode()
    response = raw(shared, "identity_BOOL", head + b"\x00\x02\xff", len(head))
    assert response.json()["outputs"][0]["data"] == [False, True, True]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/identity/", 404),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/models/..%2F..%2Fetc", 404),
        ("GET", "/v2/models/identity/infer", 405),
        ("POST", "/v2/models/identity", 405),
        ("DELETE", "/v2/models/identity", 405),
        ("PUT", "/v2/repository/index", 405),
        ("OPTIONS", "/v2/models/identity/infer", 405),
        ("GET", "/v2/repository/models/identity/load", 405),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/identity/versions/7/ready", 404),
        ("GET", "/v2/models/identity/versions/x", 404),
        ("GET", "/v2/models/nobody/stats", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/identity/infer", 400),
        ("GET", "/v2/logging", 404),
    ],
)
def test_wrong_paths_and_methods(shared, method, path, status):
    refused(shared.http.request(method, path), status)


def test_unknown_encoding(shared):
    headers = {"Content-Encoding": "br"}
    response = shared.http.post("/v2/models/identity/infer", content=b"x", headers=headers)
    refused(response, 501, "gzip or deflate")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("damage", ["garbage", "cut", "flipped"])
def test_damaged_compression(shared, encoding, damage):
    good = (gzip.compress if encoding == "gzip" else zlib.compress)(os.urandom(500))
    body = {"garbage": b"garbage", "cut": good[:-6], "flipped": good[:200] + b"\0" + good[201:]}
    headers = {"Content-Encoding": encoding}
    response = shared.http.post("/v2/models/identity/infer", content=body[damage], headers=headers)
    refused(response, 400)


def test_probes(shared):
    assert shared.http.get("/-/healthz").text == "success"
    assert shared.http.get("/v2/health/live").json() == {"live": True}
    assert shared.http.get("/v2/health/ready").json() == {"ready": True}
    assert shared.http.get("/v2/models/identity/ready").json() == {
        "name": "identity",
        "ready": True,
    }


LIMIT = 1 << 16


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    repository = tmp_path_factory.mktemp("small")
    small_models.store(repository, "flat", small_models.identity(shape=["N"]))
    server = RunningServer(repository, max_body_bytes=LIMIT, max_elements=20_000)
    server.wait_for("ready")
    yield server
    server.stop()


@pytest.mark.parametrize("way", ["plain", "chunked", "gzip", "deflate"])
@pytest.mark.parametrize("excess", [0, 4])
def test_body_size_limit(small, way, excess):
    """Mirrors http_input_size_limit_test.py: the limit holds for the decompressed size."""
    body = bytes(LIMIT + excess)
    headers = {"Inference-Header-Content-Length": "0"}
    content: Any = body
    if way == "chunked":
        content = (body[at : at + 5000] for at in range(0, len(body), 5000))
    elif way != "plain":
        headers["Content-Encoding"] = way
        content = (gzip.compress if way == "gzip" else zlib.compress)(body)
    response = small.http.post("/v2/models/flat/infer", content=content, headers=headers)
    if excess:
        refused(response, 413, str(LIMIT))
    else:
        assert binary_part(response) == body
    assert small.server.gateway.budget.used == 0


def test_decompression_bomb(small):
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < LIMIT
    headers = {"Content-Encoding": "gzip"}
    response = small.http.post("/v2/models/flat/infer", content=bomb, headers=headers)
    refused(response, 413, "decompressed")


def test_several_gzip_members(small):
    values = np.arange(8, dtype=np.float32).tobytes()
    body = gzip.compress(values[:16]) + gzip.compress(values[16:])
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "0"}
    response = small.http.post("/v2/models/flat/infer", content=body, headers=headers)
    assert binary_part(response) == values


def test_element_limit(small):
    content = {"inputs": [one([20_001], [1.0])]}
    refused(small.infer("flat", content), 400, "limit of 20000")


def test_many_tiny_chunks(small):
    """Mirrors http_request_many_chunks.py."""
    chunks = (b" " for _ in range(5000))
    response = small.http.post("/v2/models/flat/infer", content=chunks)
    refused(response, 400, "JSON")


def test_bodies_in_progress_are_bounded(start):
    server = start({"flat": small_models.identity(shape=["N"])}, max_buffered_bytes=1000)
    assert raw(server, "flat", bytes(1000)).status_code == 200
    response = raw(server, "flat", bytes(1004))
    refused(response, 503, "try again")
    assert response.headers["retry-after"] == "1"
    assert server.server.gateway.budget.used == 0


def test_a_body_that_does_not_arrive(start):
    server = start({"flat": small_models.identity(shape=["N"])}, body_timeout_s=0.2)

    def stalled():
        yield b"x"
        time.sleep(0.6)
        yield b"y"

    response = server.http.post("/v2/models/flat/infer", content=stalled())
    refused(response, 408, "0.2 s")

"""Metrics, documentation, request ids and logs."""

from __future__ import annotations

import json
import logging
import re

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from api.logs import JsonFormatter, TextFormatter
from tests.cluster import small_models


def _infer(server, model="reciprocal", data=(1.0, 2.0)):
    inputs = [{"name": "x", "shape": [len(data)], "datatype": "FP32", "data": list(data)}]
    return server.infer(model, {"inputs": inputs})


def _samples(text, parse=parse_text):
    return {
        (sample.name, sample.labels.get("model"), sample.labels.get("le")): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_metrics(start):
    server = start({"reciprocal": small_models.reciprocal()})
    for _ in range(3):
        assert _infer(server).status_code == 200
    assert _infer(server, data=()).status_code == 200
    found = _samples(server.http.get("/metrics").text)
    assert found["packhorse_ready", None, None] == 1
    assert found["packhorse_rows_total", "reciprocal", None] == 6
    assert found["packhorse_batches_total", "reciprocal", None] == 4
    assert found["packhorse_request_seconds_count", "reciprocal", None] == 4
    assert found["packhorse_request_seconds_bucket", "reciprocal", "+Inf"] == 4
    assert found["packhorse_engine_runs", "reciprocal", None] >= 4
    assert found["packhorse_engine_packs_total", "reciprocal", None] == 0
    assert found["nv_inference_count", "reciprocal", None] == 6
    assert found["nv_inference_exec_count", "reciprocal", None] == 4
    assert found["nv_inference_request_success", "reciprocal", None] == 4
    assert found["nv_inference_request_duration_us", "reciprocal", None] > 0
    assert found["nv_inference_pending_request_count", "reciprocal", None] == 0
    assert found["process_resident_memory_bytes", None, None] > 1 << 20
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    page = server.http.get("/metrics", headers=headers)
    assert "openmetrics" in page.headers["content-type"]
    assert _samples(page.text, parse_openmetrics)["packhorse_rows_total", "reciprocal", None] == 6


def test_pages_can_be_switched_off(start):
    server = start({"reciprocal": small_models.reciprocal()}, metrics=False, docs=False)
    for path in ("/metrics", "/docs", "/openapi.json"):
        response = server.http.get(path)
        assert (response.status_code, list(response.json())) == (404, ["error"])


def test_documentation_needs_no_network(shared):
    page = shared.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", page.text)
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_openapi_documents_every_route_with_schemas(shared):
    document = shared.http.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]
    assert {p["name"] for p in infer["parameters"]} == {
        "model",
        "version",
        "Inference-Header-Content-Length",
    }
    content = infer["requestBody"]["content"]
    assert content["application/json"]["example"]["inputs"][0]["datatype"] == "FP32"
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert {"InferenceRequest", "InputTensor", "ErrorBody"} <= references
    assert references <= set(schemas)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_the_documented_example_works(start):
    server = start({"m": small_models.identity(shape=["N", 4])})
    document = server.http.get("/openapi.json").json()
    body = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]
    answer = server.infer("m", body["content"]["application/json"]["example"])
    assert answer.json()["id"] == "42"


def test_request_ids_and_trace_context(shared):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = shared.http.get("/v2", headers={"X-Request-Id": "abc-1", "traceparent": trace})
    assert given.headers["x-request-id"] == "abc-1"
    assert given.headers["traceparent"] == trace
    made = [shared.http.get("/v2").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    for bad in ("with space", "x" * 200):
        response = shared.http.get("/v2", headers={"X-Request-Id": bad, "traceparent": bad})
        assert response.headers["x-request-id"] != bad
        assert "traceparent" not in response.headers
    missing = shared.http.get("/nothing", headers={"X-Request-Id": "abc-2"})
    assert missing.headers["x-request-id"] == "abc-2"


@pytest.mark.parametrize("style", [JsonFormatter, TextFormatter])
def test_access_log(start, style):
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler = Handler()
    handler.setFormatter(style())
    log = logging.getLogger("packhorse.access")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        server = start({"m": small_models.identity()}, access_log=True)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"X-Request-Id": "r-7", "traceparent": trace}
        server.http.get("/v2/no%0Asuch", headers=headers)
        server.wait_until(lambda: len(lines) == 1)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert "\n" not in lines[0]
    if style is TextFormatter:
        assert "[r-7]" in lines[0]
        assert "GET /v2/no%0Asuch 404" in lines[0]
    else:
        entry = json.loads(lines[0])
        assert entry["request_id"] == "r-7"
        assert entry["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/v2/no%0Asuch", 404)
        assert entry["duration_ms"] >= 0

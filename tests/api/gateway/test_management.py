"""Who may change the models."""

from __future__ import annotations

import pytest

from api.gateway.management import _is_local
from tests.cluster import small_models

SCALE = {"scale": small_models.scale(2)}
LOAD = "/v2/repository/models/scale/load"
UNLOAD = "/v2/repository/models/scale/unload"


class _Client:
    def __init__(self, host: str) -> None:
        self.host = host


class _Request:
    def __init__(self, host: str | None) -> None:
        self.client = None if host is None else _Client(host)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        (None, True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("testclient", False),
    ],
)
def test_only_this_machine_is_local(host, local):
    assert _is_local(_Request(host)) is local


def test_from_this_machine_by_default(start):
    server = start(SCALE)
    assert server.http.post(LOAD).status_code == 200
    assert (
        server.http.post(UNLOAD, json={"parameters": {"unload_dependents": False}}).content == b""
    )


def test_pages_of_other_sites_are_refused(start):
    server = start(SCALE)
    for path in (LOAD, UNLOAD):
        response = server.http.post(path, headers={"Origin": "http://evil.example"})
        assert response.status_code == 403
        assert "other sites" in response.json()["error"]
    assert server.http.post(LOAD, headers={"Origin": server.url}).status_code == 200
    assert server.http.get("/v2/models/scale/ready").status_code == 200


def test_with_a_token(start):
    server = start(SCALE, management_token="s3cret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        response = server.http.post(UNLOAD, headers=headers)
        assert response.status_code == 401
        assert "Bearer TOKEN" in response.json()["error"]
    assert server.http.post("/v2/repository/index").status_code == 200
    headers = {"Authorization": "Bearer s3cret"}
    assert server.http.post(UNLOAD, headers=headers).status_code == 200
    assert server.http.get("/v2/models/scale/ready").status_code == 503


def test_switched_off(start):
    server = start(SCALE, management="off", management_token="s3cret")
    response = server.http.post(LOAD, headers={"Authorization": "Bearer s3cret"})
    assert response.status_code == 403
    assert "PACKHORSE_MANAGEMENT" in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "JSON"),
        (b"[]", "JSON object"),
        (b'{"parameters": []}', "'parameters'"),
        (b'{"parameters": {"config": 1}}', "'config'"),
        (b'{"parameters": {"config": "{"}}', "'config' is not valid JSON"),
        (b'{"parameters": {"config": "[]"}}', "'config'"),
        (b'{"parameters": {"config": "{\\"max_batchsize\\": 1}"}}', "max_batchsize"),
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', "not taken from requests"),
        (b'{"parameters": {"file:../../x": "AAAA"}}', "not taken from requests"),
    ],
)
def test_malformed_loads(shared, body, words):
    response = shared.http.post("/v2/repository/models/flat/load", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert shared.http.get("/v2/models/flat/ready").status_code == 200


def test_index_can_be_filtered(start):
    server = start({**SCALE, "other": small_models.scale(3)})
    server.http.post(UNLOAD)
    index = server.http.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry["name"] for entry in index] == ["other"]
    assert len(server.http.post("/v2/repository/index").json()) == 2
    assert server.http.post("/v2/repository/index", json={"ready": 1}).status_code == 400

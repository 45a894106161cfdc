"""Start, overload, disconnects and shutdown of a real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.errors import StartError
from api.server import InferenceServer, serve
from api.settings import Settings
from cluster.channel.inprocess import InProcessChannel
from cluster.errors import ChannelError, RepositoryError
from tests.api.gateway.conftest import RunningServer
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader

SCALE = {"scale": small_models.scale(2)}


def content(value: float, **parameters: Any) -> dict[str, Any]:
    inputs = [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]
    return {"inputs": inputs, "parameters": parameters}


def test_concurrent_requests_share_batches(start):
    server = start(SCALE, max_batch_size=64)
    server.loader.hold()
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(server.infer, "scale", content(0))
        gateway = server.server.gateway
        server.wait_until(lambda: not gateway.channel.idle(gateway.catalog.find("scale").key))
        rest = [pool.submit(server.infer, "scale", content(i)) for i in range(1, 21)]
        server.wait_until(lambda: server.waiting("scale") == 20)
        server.loader.release()
        for value, answer in enumerate([first, *rest]):
            assert answer.result().json()["outputs"][0]["data"] == [2.0 * value]
    statistics = server.statistics("scale")
    assert (statistics["inference_count"], statistics["execution_count"]) == (21, 2)
    assert statistics["inference_stats"]["queue"]["ns"] > 0


def test_overload_is_refused_early_and_clearly(start):
    """Mirrors L0_http test_descriptive_status_code."""
    server = start(SCALE, max_queue=2)
    server.loader.hold()
    with ThreadPoolExecutor(3) as pool:
        accepted = [pool.submit(server.infer, "scale", content(0))]
        gateway = server.server.gateway
        server.wait_until(lambda: not gateway.channel.idle(gateway.catalog.find("scale").key))
        accepted += [pool.submit(server.infer, "scale", content(i)) for i in (1, 2)]
        server.wait_until(lambda: server.waiting("scale") == 2)
        page = server.http.get("/metrics").text
        for name, value in (("waiting_requests", 2), ("lanes", 1), ("longest_lane_requests", 2)):
            assert f'packhorse_{name}{{model="scale",version="1"}} {value}.0' in page
        started = time.monotonic()
        refused = server.infer("scale", content(3))
        assert time.monotonic() - started < 2
        assert refused.status_code == 503
        assert "the limit is 2" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        server.loader.release()
        assert [answer.result().status_code for answer in accepted] == [200] * 3
    assert server.statistics("scale")["inference_stats"]["fail"]["count"] == 1
    metrics = server.http.get("/metrics").text
    assert (
        'nv_inference_request_failure{model="scale",reason="REJECTED",version="1"} 1.0' in metrics
    )


def test_a_deadline_in_microseconds(start):
    server = start(SCALE)
    server.loader.hold()
    response = server.infer("scale", content(1, timeout=50_000))
    assert response.status_code == 504
    assert "deadline" in response.json()["error"]


def connect(server: RunningServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def test_an_answer_does_not_wait_for_the_ack_of_its_head(shared: RunningServer):
    """With Nagle's algorithm on, the second packet of an answer would come 40 ms late."""
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'
    head = f"POST /v2/models/flat/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    times = []
    with connect(shared) as connection:
        for _ in range(15):
            started = time.monotonic()
            connection.sendall(head.encode() + body)
            received = b""
            while not received.endswith(b"]}]}"):
                received += connection.recv(65536)
            times.append(time.monotonic() - started)
    assert sorted(times)[7] < 0.03


def test_a_client_that_goes_away_leaves_the_forming_batch(start):
    server = start(SCALE)
    server.loader.hold()
    gateway = server.server.gateway
    body = json.dumps(content(2)).encode()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.infer, "scale", content(0))
        server.wait_until(lambda: not gateway.channel.idle(gateway.catalog.find("scale").key))
        second = pool.submit(server.infer, "scale", content(1))
        server.wait_until(lambda: server.waiting("scale") == 1)
        with connect(server) as connection:
            head = f"POST /v2/models/scale/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            server.wait_until(lambda: server.waiting("scale") == 2)
        server.wait_until(lambda: server.waiting("scale") == 1)
        server.loader.release()
        assert second.result().json()["outputs"][0]["data"] == [2.0]
        assert first.result().status_code == 200
    assert server.loader.sessions[-1].runs[-2:] == [(1, 1), (1, 1)]
    failures = gateway.statistics.of("scale", "1").failures
    assert failures["CANCELED"].count == 1
    assert gateway.budget.used == 0


def test_a_client_that_goes_away_while_sending(start):
    server = start(SCALE)
    for _ in range(3):
        with connect(server) as connection:
            connection.sendall(
                b"POST /v2/models/scale/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"
            )
            server.wait_until(lambda: server.server.gateway.budget.used == 1)
        server.wait_until(lambda: server.server.gateway.budget.used == 0)
    assert server.infer("scale", content(4)).json()["outputs"][0]["data"] == [8.0]


def test_shutdown_answers_what_was_accepted(start):
    """Mirrors L0_lifecycle test_shutdown_with_live_connection."""
    server = start(SCALE)
    server.loader.hold()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(server.infer, "scale", content(0))]
        gateway = server.server.gateway
        server.wait_until(lambda: not gateway.channel.idle(gateway.catalog.find("scale").key))
        answers += [pool.submit(server.infer, "scale", content(i)) for i in range(1, 5)]
        server.wait_until(lambda: server.waiting("scale") == 4)
        server.server.stop()
        server.wait_for("draining")
        assert not gateway.ready
        time.sleep(0.3)
        assert not any(answer.done() for answer in answers)
        server.loader.release()
        for value, answer in enumerate(answers):
            assert answer.result().json()["outputs"][0]["data"] == [2.0 * value]
    server.wait_for("stopped")
    assert all(session.closed for session in server.loader.sessions)


def test_readiness_turns_before_connections_are_refused(start):
    server = start(SCALE, drain_delay_s=0.6)
    server.server.stop()
    server.wait_for("draining")
    assert server.http.get("/v2/health/ready").status_code == 503
    assert server.http.get("/-/healthz").status_code == 503
    assert server.http.get("/v2/health/live").status_code == 200
    assert server.infer("scale", content(1)).status_code == 200


def test_it_answers_while_models_load(start, tmp_path: Path, monkeypatch):
    release = threading.Event()
    load = HeldLoader.__call__

    def slow(self, path, **options):
        release.wait(20)
        return load(self, path, **options)

    monkeypatch.setattr(HeldLoader, "__call__", slow)
    server = start(SCALE, ready=False)
    server.wait_for("listening")
    assert server.http.get("/v2/health/live").status_code == 200
    assert server.http.get("/v2/health/ready").status_code == 503
    refused = server.infer("scale", content(1))
    assert refused.status_code == 503
    assert "not" in refused.json()["error"]
    index = server.http.post("/v2/repository/index").json()
    assert index[0]["state"] == "LOADING"
    release.set()
    server.wait_for("ready")
    assert server.http.get("/v2/health/ready").status_code == 200
    assert {event.kind for event in server.events} == {"listening", "loading", "ready"}
    assert server.events[-1].kind == "ready"


def test_shutdown_while_loading(start, monkeypatch):
    """Mirrors L0_lifecycle's case of this name: the load is given up at its next report."""
    load = HeldLoader.__call__
    stopped, given_up = threading.Event(), threading.Event()

    def slow(self, path, **options):
        stopped.wait(20)
        try:
            return load(self, path, **options)
        except ChannelError:
            given_up.set()
            raise

    monkeypatch.setattr(HeldLoader, "__call__", slow)
    server = start(SCALE, ready=False)
    server.wait_for("listening")
    server.server.stop()
    server.wait_for("stopped")
    stopped.set()
    assert given_up.wait(20)
    assert "ready" not in [event.kind for event in server.events]


def test_a_model_that_fails_to_load_stops_the_server(tmp_path: Path):
    small_models.store(tmp_path, "broken", small_models.identity()).write_bytes(b"not onnx")
    settings = Settings(repository=tmp_path, port=0)
    events = []
    server = InferenceServer(settings, events.append, channel=InProcessChannel(HeldLoader()))
    server.run()
    kinds = [event.kind for event in events]
    assert set(kinds[:2]) == {"listening", "loading"}
    assert kinds[2:] == ["failed", "draining", "stopped"]
    with pytest.raises(StartError, match=r"'broken' version 1.*model\.onnx"):
        server.raise_failure()


def test_or_it_serves_the_others(start, tmp_path: Path):
    small_models.store(tmp_path, "broken", small_models.identity()).write_bytes(b"not onnx")
    server = start(SCALE, ready=False, exit_on_error=False)
    server.wait_for("failed")
    server.wait_until(lambda: server.http.get("/v2/models/scale/ready").status_code == 200)
    assert server.http.get("/v2/health/ready").status_code == 503
    assert server.infer("scale", content(1)).status_code == 200
    refused = server.infer("broken", content(1))
    assert refused.status_code == 503
    assert "model.onnx" in refused.json()["error"]


def test_nothing_to_serve_and_a_port_in_use(tmp_path: Path):
    with pytest.raises(RepositoryError, match="nothing to serve"):
        serve(Settings(repository=tmp_path, port=0))
    small_models.store(tmp_path, "scale", SCALE["scale"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port}.*PACKHORSE_PORT"):
            serve(Settings(repository=tmp_path, port=port))


def test_an_unexpected_error_is_not_shown(shared: RunningServer, monkeypatch):
    def fail(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("api.gateway.inference.decode_request", fail)
    response = shared.infer("flat", {}, headers={"X-Request-Id": "find-me"})
    assert response.status_code == 500
    assert response.json() == {
        "error": "internal error; the server's log has it under request id find-me"
    }
    assert shared.server.gateway.budget.used == 0

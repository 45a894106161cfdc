"""Serve's REST API as it answers, from a server that stands in for the dashboard."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import FleetError
from cluster.fleet.configuration import describe
from cluster.fleet.control import Control

OTHER = {"name": "other", "import_path": "somebody.else:app", "route_prefix": "/other"}


class Dashboard(BaseHTTPRequestHandler):
    """Answers with what the test has put into `answers`, and keeps what it was sent."""

    answers: dict[tuple[str, str], tuple[int, Any]]
    sent: list[tuple[str, str, Any]]

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        self.sent.append((self.command, self.path, body))
        status, answer = self.answers.get((self.command, self.path), (404, {"error": "no"}))
        if self.headers.get("Authorization") != "Bearer token":
            status, answer = 401, {}
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[type[Dashboard]]:
    class Own(Dashboard):
        pass

    Own.answers = {("PUT", "/api/serve/applications/"): (200, "")}
    Own.sent = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Own.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield Own
    server.shutdown()
    server.server_close()
    thread.join()


def running(applications: dict[str, Any]) -> dict[tuple[str, str], tuple[int, Any]]:
    return {("GET", "/api/serve/applications/"): (200, {"applications": applications})}


FLEET = {
    "status": "RUNNING",
    "message": "",
    "deployed_app_config": {
        "name": "packhorse",
        "import_path": "cluster.fleet.application:build",
        "args": {"repository": "/models"},
    },
    "deployments": {
        "Worker": {
            "target_num_replicas": 2,
            "message": "",
            "replicas": [
                {"replica_id": "a", "state": "RUNNING", "node_ip": "10.0.0.1", "pid": 7},
                {"replica_id": "b", "state": "STARTING", "node_ip": None, "pid": None},
            ],
        }
    },
}


def test_other_applications_stay(dashboard: Any) -> None:
    dashboard.answers |= running({"packhorse": FLEET, "other": {"deployed_app_config": OTHER}})
    control = Control(dashboard.url, "token")
    control.deploy(describe(Path("models")))
    method, path, body = dashboard.sent[-1]
    assert (method, path) == ("PUT", "/api/serve/applications/")
    assert [one["name"] for one in body["applications"]] == ["packhorse", "other"]
    control.delete("packhorse")
    assert [one["name"] for one in dashboard.sent[-1][2]["applications"]] == ["other"]
    assert control.names() == ["packhorse"]
    assert control.arguments("packhorse") == {"repository": "/models"}


def test_the_last_application_is_deleted_outright(dashboard: Any) -> None:
    dashboard.answers |= running({"packhorse": FLEET})
    dashboard.answers[("DELETE", "/api/serve/applications/")] = (200, "")
    Control(dashboard.url, "token").delete("packhorse")
    assert dashboard.sent[-1][0] == "DELETE"


def test_states(dashboard: Any) -> None:
    dashboard.answers |= running({"packhorse": FLEET})
    control = Control(dashboard.url, "token")
    state = control.state("packhorse")
    assert state is not None
    assert (state.status, state.wanted, state.running()) == ("RUNNING", 2, 1)
    assert control.state("nobody") is None
    with pytest.raises(FleetError, match=r"not up within 0.2 s: RUNNING"):
        control.wait("packhorse", 2, 0.2)
    failed = FLEET | {"status": "DEPLOY_FAILED", "message": "Traceback\n  File\nFleetError: slot\n"}
    dashboard.answers |= running({"packhorse": failed})
    with pytest.raises(FleetError, match=r"cannot be deployed: FleetError: slot$"):
        control.wait("packhorse", 2, 5)


def test_refusals_are_explained(dashboard: Any) -> None:
    control = Control(dashboard.url, "token")
    path = "/api/v1/applications/packhorse/deployments/Worker/scale"
    dashboard.answers[("POST", path)] = (412, {"error": "external scaler is not enabled"})
    with pytest.raises(FleetError, match="external scaler is not enabled"):
        control.scale("packhorse", 3)
    assert dashboard.sent[-1][2] == {"target_num_replicas": 3}
    with pytest.raises(FleetError, match="RAY_AUTH_TOKEN"):
        Control(dashboard.url, "wrong").names()
    with pytest.raises(FleetError, match="is the fleet up"):
        Control("http://127.0.0.1:9", "token").names()
    assert not Control("http://127.0.0.1:9", "token").alive()
    with pytest.raises(FleetError, match="no address of a Ray dashboard"):
        Control("127.0.0.1:8265")

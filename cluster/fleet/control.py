"""Serve's REST API, as the dashboard offers it: deploy, look, scale, delete. Needs no Ray here."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.errors import FleetError
from cluster.fleet.configuration import APPLICATION, WORKER, FleetFile
from cluster.fleet.secrets import ray_token

DASHBOARD: Final = "http://127.0.0.1:8265"
_APPLICATIONS: Final = "/api/serve/applications/"


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as Serve sees it."""

    deployment: str
    id: str
    state: str
    node: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class FleetState:
    """An application as Serve sees it; `status` is Serve's word, `message` its explanation."""

    name: str
    status: str
    message: str
    wanted: int
    replicas: tuple[Replica, ...]

    def running(self, deployment: str = WORKER) -> int:
        """Replicas of a deployment that run."""
        return sum(r.deployment == deployment and r.state == "RUNNING" for r in self.replicas)


class Control:
    """Steers a fleet through the dashboard of its Ray cluster."""

    def __init__(self, dashboard: str = DASHBOARD, token: str | None = None) -> None:
        """`token` is Ray's; by default it is looked for where Ray looks for it."""
        parts = urlsplit(dashboard)
        if parts.scheme != "http" or not parts.hostname:
            raise FleetError(
                f"'{dashboard}' is no address of a Ray dashboard; give one such as {DASHBOARD}"
            )
        self.dashboard = dashboard
        self._host, self._port = parts.hostname, parts.port or 80
        self._token = token or ray_token()

    def alive(self) -> bool:
        """Whether the dashboard answers at all."""
        try:
            self._call("GET", "/api/version", timeout_s=2)
        except FleetError:
            return False
        return True

    def deploy(self, fleet: FleetFile) -> None:
        """Make the cluster run `fleet`; other applications on it stay as they are."""
        config = fleet.serve_config()
        others = [
            application["deployed_app_config"]
            for name, application in self._applications().items()
            if name != fleet.application.name and application.get("deployed_app_config")
        ]
        config["applications"] += others
        self._call("PUT", _APPLICATIONS, config)

    def state(self, name: str) -> FleetState | None:
        """The fleet called `name`, None if the cluster does not run it."""
        found = self._applications().get(name)
        return None if found is None else _state(name, found)

    def names(self) -> list[str]:
        """Fleets that the cluster runs."""
        return [
            name
            for name, application in self._applications().items()
            if (application.get("deployed_app_config") or {}).get("import_path") == APPLICATION
        ]

    def arguments(self, name: str) -> dict[str, Any]:
        """The `args` that a fleet was deployed with."""
        found = self._applications().get(name) or {}
        return dict((found.get("deployed_app_config") or {}).get("args") or {})

    def scale(self, name: str, workers: int) -> None:
        """Ask for a number of workers; returns before they are there."""
        path = f"/api/v1/applications/{name}/deployments/{WORKER}/scale"
        self._call("POST", path, {"target_num_replicas": workers})

    def delete(self, name: str) -> None:
        """Take the fleet off the cluster; other applications stay."""
        applications = self._applications()
        others = [
            application["deployed_app_config"]
            for other, application in applications.items()
            if other != name and application.get("deployed_app_config")
        ]
        if others:
            config = {"proxy_location": "Disabled", "applications": others}
            self._call("PUT", _APPLICATIONS, config)
        elif name in applications:
            self._call("DELETE", _APPLICATIONS)

    def wait(self, name: str, workers: int, timeout_s: float) -> FleetState:
        """Wait until `workers` workers run; raises `FleetError` with Serve's reason."""
        until = time.monotonic() + timeout_s
        state = None
        while time.monotonic() < until:
            state = self.state(name)
            if state is not None:
                if state.running() >= workers and state.running("Directory"):
                    return state
                if state.status == "DEPLOY_FAILED":
                    raise FleetError(f"fleet '{name}' cannot be deployed: {_reason(state.message)}")
            time.sleep(0.1)
        reason = "it was not deployed" if state is None else state.message or state.status
        raise FleetError(f"fleet '{name}' is not up within {timeout_s:g} s: {reason}")

    def _applications(self) -> dict[str, Any]:
        answer = self._call("GET", _APPLICATIONS)
        return dict(answer.get("applications") or {})

    def _call(
        self, method: str, path: str, body: Any = None, timeout_s: float = 60
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except OSError as error:
            raise FleetError(
                f"no Ray dashboard at {self.dashboard}: {error}; is the fleet up?"
            ) from None
        finally:
            connection.close()
        if answer.status in (401, 403):
            raise FleetError(
                f"the Ray dashboard at {self.dashboard} wants a token; set RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH"
            )
        if answer.status != 200:
            raise FleetError(f"the Ray dashboard refuses {method} {path}: {_reason(text)}")
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}


def _state(name: str, application: dict[str, Any]) -> FleetState:
    deployments = application.get("deployments") or {}
    messages = [application.get("message") or ""]
    replicas = []
    for deployment, details in deployments.items():
        messages.append(details.get("message") or "")
        replicas += [
            Replica(
                deployment,
                replica["replica_id"],
                replica["state"],
                f"{replica.get('node_ip') or ''}-{(replica.get('node_id') or '')[:6]}",
                replica.get("pid"),
            )
            for replica in details.get("replicas") or ()
        ]
    return FleetState(
        name,
        application.get("status") or "",
        " ".join(filter(None, messages)),
        (deployments.get(WORKER) or {}).get("target_num_replicas") or 0,
        tuple(replicas),
    )


def _reason(text: str) -> str:
    """The last line of an answer's error, which is what a traceback ends in."""
    try:
        found = json.loads(text)
        text = str(found.get("error") or found.get("msg") or text)
    except (ValueError, AttributeError):
        pass
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:1000] if lines else "no reason given"

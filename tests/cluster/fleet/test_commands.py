"""Fleets as people start them: `packhorse serve --fleet`, and Ray's own `serve deploy`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import FleetError
from cluster.fleet.control import Control
from cluster.fleet.directory_client import ask
from cluster.fleet.processes import ProcessId, descendants, end_tree
from cluster.fleet.ray_node import free_port, ray_environment, start_node
from cluster.fleet.secrets import created
from cluster.topology.tree import read_topology
from tests.cluster.fleet.running import MODEL, ROOT

pytest.importorskip("ray", reason="needs packhorse[fleet]")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(read_topology().cores < 2, reason="needs two cores, one per worker"),
]

IMAGE = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("PACKHORSE_FLEET_SECRET", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PACKHORSE_LEASES", str(tmp_path / "leases"))
    token = tmp_path / "token"
    created(token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    return ray_environment(token)


def until(fits: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := fits()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def ask_for_digits(url: str) -> bool:
    body = json.dumps({"inputs": [IMAGE]}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v2/models/digits/infer", body, timeout=10) as answer:
            return bool(json.load(answer)["outputs"])
    except OSError:
        return False


def test_serve_with_a_fleet_in_the_foreground(environment: dict[str, str]) -> None:
    """One command; Ctrl-C ends Ray, the workers and the gateway."""
    port = free_port()
    command = [sys.executable, "-m", "api.cli.main", "serve", str(MODEL)]
    command += ["--fleet", "--slots", "2", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    root = ProcessId.of(process.pid)
    assert root is not None
    try:
        until(lambda: process.poll() is None and ask_for_digits(f"http://127.0.0.1:{port}"))
        page = read(f"http://127.0.0.1:{port}/metrics")
        assert 'packhorse_channel_workers{state="ready"} 2.0' in page
        below = descendants(root)
        assert len(below) > 5
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
        assert not [one for one in below if one.alive]
    finally:
        end_tree(root, 5)
        process.communicate()


def test_plain_serve_deploy_gives_the_same_fleet(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The file that ships, on other ports; scaled by Serve's REST API alone."""
    content = yaml.safe_load((ROOT / "configs/fleet.yaml").read_text())
    arguments = content["applications"][0]["args"]
    directory_port = free_port()
    arguments |= {"directory_port": directory_port, "leases": str(tmp_path / "leases")}
    arguments["repository"] = str(ROOT / arguments["repository"])
    secret = tmp_path / "secret"
    secret.write_text("a secret of the tests, long enough")
    arguments["secret_file"] = str(secret)
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(content))
    dashboard_port = free_port()
    head = start_node(
        places=2,
        log=tmp_path / "ray.log",
        environment=environment,
        port=free_port(),
        dashboard_port=dashboard_port,
    )
    try:
        dashboard = f"http://127.0.0.1:{dashboard_port}"
        control = Control(dashboard, Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip())
        until(control.alive)
        scripts = "import sys; from ray.serve.scripts import cli; sys.exit(cli())"
        deploy = [sys.executable, "-c", scripts, "deploy", str(file), "--address", dashboard]
        done = subprocess.run(deploy, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        control.wait("packhorse", 2, 60)
        assert control.names() == ["packhorse"]

        def workers() -> list[dict[str, Any]]:
            found = ask(f"127.0.0.1:{directory_port}", secret.read_text(), {"do": "status"})
            return list(asyncio.run(found)["workers"])

        found = until(lambda: len(workers()) == 2 and workers())
        assert sorted(worker["slot"] for worker in found) == ["slot0", "slot1"]
        assert all(worker["strays"] == [] for worker in found)
        assert all(worker["repository_models"] == ["digits"] for worker in found)
        for count in (1, 2):
            scale(dashboard, count)
            until(lambda count=count: len(workers()) == count)
            state = control.state("packhorse")
            assert state is not None
            assert state.wanted == count
        with pytest.raises(FleetError, match="wants a token"):
            Control(dashboard, "not the token").state("packhorse")

        # A key that Serve does not know of is refused by name, too, since `build` reads `args`.
        arguments["slotz"] = 3
        file.write_text(yaml.safe_dump(content))
        subprocess.run(deploy, env=environment, capture_output=True, timeout=60, check=False)
        state = until(lambda: failed(control))
        assert "slotz" in state.message
    finally:
        below = descendants(head)
        end_tree(head, 15)
        assert not [one for one in below if one.alive]


def failed(control: Control) -> Any:
    state = control.state("packhorse")
    return state if state is not None and state.status == "DEPLOY_FAILED" else None


def scale(dashboard: str, count: int) -> None:
    """As docs/kubernetes.md has it."""
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    request = urllib.request.Request(
        f"{dashboard}/api/v1/applications/packhorse/deployments/Worker/scale",
        json.dumps({"target_num_replicas": count}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())

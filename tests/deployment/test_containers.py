"""The image, the compose file, and what watches over them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import engine
from cluster.channel.status import COUNTERS
from cluster.fleet.configuration import read_file

ROOT = Path(__file__).resolve().parents[2]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_the_image_is_built_from_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith(("--", "$"))
    ]
    assert len(sources) >= 6
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    }
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), source
    assert re.search(r"^USER packhorse$", text, re.MULTILINE)
    assert "root" not in text.split("USER packhorse")[1]


def test_compose_refers_to_what_exists() -> None:
    found = compose()
    services = found["services"]
    assert set(services) == {"head", "worker", "deploy", "gateway", "prometheus", "grafana"}
    for name, service in services.items():
        assert {"image", "command"} & service.keys(), name
        for other, condition in service.get("depends_on", {}).items():
            assert other in services
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("$"):
                assert source in found["volumes"], source
        for port in service.get("ports", ()):
            assert name == "gateway" or port.startswith("127.0.0.1:"), f"{name} is open to all"
    assert (ROOT / "examples/digits/digits.onnx").exists()  # what ./models stands for by default


def test_compose_starts_one_worker_per_slot() -> None:
    fleet = read_file(ROOT / "configs/compose.yaml")
    services = compose()["services"]
    assert fleet.application.args.slots == fleet.workers == services["worker"]["deploy"]["replicas"]
    assert fleet.application.args.leases == "/leases"
    assert "leases:/leases" in services["worker"]["volumes"]
    port = fleet.application.args.directory_port
    assert services["gateway"]["environment"]["PACKHORSE_DIRECTORY"] == f"head:{port}"
    (resources,) = (one for one in services["worker"]["command"] if "--resources" in one)
    assert json.loads(resources.partition("=")[2]) == {"socket": 1}


@pytest.mark.parametrize("service", ["head", "worker"])
def test_ray_takes_the_options(service: str) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts", reason="needs packhorse[fleet]")
    command = compose()["services"][service]["command"]
    assert command[:2] == ["ray", "start"]
    scripts.start.make_context("start", command[2:])


def test_the_board_shows_metrics_that_exist() -> None:
    board = json.loads((ROOT / "configs/grafana/dashboards/packhorse.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) >= 12
    used = {name for query in queries for name in re.findall(r"\b(?:ray_)?packhorse_\w+", query)}
    code = (ROOT / "api/metrics.py").read_text()
    session = engine.load(ROOT / "examples/digits/digits.onnx", 1)
    counters = session.stats().keys()
    session.close()
    replica = (ROOT / "cluster/fleet/application.py").read_text()
    for name in used:
        if name.startswith("ray_packhorse_worker_model_"):
            assert name.removeprefix("ray_packhorse_worker_model_") in counters, name
        elif name.startswith("ray_packhorse_worker_"):
            counter = name.removeprefix("ray_packhorse_worker_")
            assert f"packhorse_worker_{counter}" in replica or f'"{counter}"' in replica, name
        else:
            plain = re.sub(r"_(total|bucket)$", "", name)
            short = plain.removeprefix("packhorse_channel_")
            assert short in COUNTERS or f'"{plain}"' in code or f'"{short}"' in code, name


def test_prometheus_asks_services_that_exist() -> None:
    found = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yml").read_text())
    names = {
        name
        for job in found["scrape_configs"]
        for source in job["dns_sd_configs"]
        for name in source["names"]
    }
    assert names == {"gateway", "head", "worker"}
    assert names <= compose()["services"].keys()
    (source,) = yaml.safe_load(
        (ROOT / "configs/grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    board = json.loads((ROOT / "configs/grafana/dashboards/packhorse.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}

"""Every manifest against the schema of its kind, and against what the others and the code say."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.fleet.configuration import FleetFile

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s/base"


def schemas() -> Path:
    folder = Path(os.environ.get("PACKHORSE_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    if not folder.is_dir():
        pytest.skip(f"no schemas at {folder}; set PACKHORSE_SCHEMAS")
    return folder


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [one for name in listed for one in yaml.safe_load_all((BASE / name).read_text())]


def of_kind(kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = (
        one
        for one in documents()
        if one["kind"] == kind and name in (None, one["metadata"]["name"])
    )
    return found


def closed(schema: Any) -> Any:
    """A CustomResourceDefinition's schema as JSON schema: unknown keys refused, ports by name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        result["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return result


def ray_service_problems(manifest: dict[str, Any]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    definition = yaml.safe_load((schemas() / "ray.io_rayservices.yaml").read_text())
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft7Validator(schema).iter_errors(manifest)
    ]


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml"
    )


def test_the_ray_service_fits_kuberays_schema() -> None:
    manifest = of_kind("RayService")
    assert ray_service_problems(manifest) == []
    manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplica"] = 1
    manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] = "8"
    problems = ray_service_problems(manifest)
    assert len(problems) == 2
    assert any("minReplica" in problem for problem in problems)


def test_built_in_kinds_fit_theirs() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    checked = [one for one in documents() if one["kind"] != "RayService"]
    assert {one["kind"] for one in checked} == {
        "Namespace",
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for manifest in checked:
        validate.validate(manifest, validate.latest_version(), strict=True)
    # Pods of the RayService are pods like any other.
    cluster = of_kind("RayService")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        validate.validate(pod, validate.latest_version(), strict=True)


def test_kustomize_puts_it_together() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to run kustomize with")
    command = ["kubectl", "kustomize", str(BASE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(documents())
    for one in built:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "packhorse"
        assert one["metadata"]["labels"]["app.kubernetes.io/name"] == "packhorse"


def test_the_pages_command_sets_the_image_everywhere(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to run kustomize with")
    shutil.copytree(BASE, tmp_path / "k8s/base")
    page = (ROOT / "docs/kubernetes.md").read_text()
    (command,) = (line for line in page.splitlines() if line.startswith("sed "))
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    build = ["kubectl", "kustomize", str(tmp_path / "k8s/base")]
    built = subprocess.run(build, capture_output=True, text=True, timeout=60, check=True).stdout
    images = re.findall(r"image: (\S+)", built)
    assert images == ["REGISTRY/packhorse:1"] * 4


def test_what_the_manifests_say_of_each_other_is_true() -> None:
    spec = of_kind("RayService")["spec"]
    fleet = FleetFile.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    arguments = fleet.application.args
    cluster = spec["rayClusterConfig"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gateway = of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = {one["name"]: one.get("value") for one in gateway["env"]}

    # One worker per pod, which has whole CPUs of its own.
    options = fleet.deployment("Worker")
    assert options is not None
    assert options.ray_actor_options is not None
    assert fleet.workers == group["replicas"]
    resources = worker["resources"]
    assert resources["limits"] == resources["requests"]
    assert float(resources["limits"]["cpu"]) == options.ray_actor_options.num_cpus
    assert group["rayStartParams"]["num-cpus"] == resources["limits"]["cpu"]
    assert group["rayStartParams"]["resources"] == '"{\\"socket\\": 1}"'
    assert options.max_replicas_per_node == 1

    # Ports, services and policies.
    service = of_kind("Service", "packhorse-directory")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert environment["PACKHORSE_DIRECTORY"] == address
    assert service["spec"]["ports"][0]["port"] == arguments.directory_port
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    assert ports["batches"] == arguments.port
    policy = of_kind("NetworkPolicy", "packhorse-ray")
    open_to_gateways = {
        port["port"]
        for rule in policy["spec"]["ingress"]
        for port in rule.get("ports", ())
        if rule["from"][0]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component")
        == "gateway"
    }
    assert open_to_gateways == {arguments.port, arguments.directory_port}

    # The same models under the same path, the same secret, everywhere.
    for container in (head["template"]["spec"]["containers"][0], worker, gateway):
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts["models"]["mountPath"] == arguments.repository
        assert mounts["models"]["readOnly"]
        (secret,) = (e for e in container["env"] if e["name"] == "PACKHORSE_FLEET_SECRET")
        assert secret["valueFrom"]["secretKeyRef"] == {"name": "packhorse-fleet", "key": "secret"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert arguments.repository in gateway["args"]
    assert arguments.cache_dir is not None
    assert arguments.cache_dir.startswith("/cache/")
    assert cluster["authOptions"]["mode"] == "token"

    # Settings that the gateway is given exist, and a pod is not killed while it drains.
    from api.settings import PREFIX, read_settings

    given = {name: value for name, value in environment.items() if value is not None}
    settings = read_settings({"repository": "/models"}, given)
    assert all(name.removeprefix(PREFIX).lower() in settings.model_fields_set for name in given)
    grace = of_kind("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert settings.drain_delay_s + settings.drain_timeout_s < grace
    assert arguments.drain_s < group["template"]["spec"]["terminationGracePeriodSeconds"]


def test_serve_knows_the_configuration_and_ray_the_version() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs packhorse[fleet]")
    application = pytest.importorskip("cluster.fleet.application")
    spec = of_kind("RayService")["spec"]
    schema.ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    assert spec["rayClusterConfig"]["rayVersion"].rpartition(".")[0] in application.KNOWN_RAY


def test_the_page_creates_the_secrets_that_are_used() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    assert "create secret generic packhorse-fleet" in page
    assert "--from-literal=secret=" in page
    assert "create secret generic packhorse-ray" in page
    assert "--from-literal=auth_token=" in page

"""A fleet's file: what is accepted, what is refused by name, what Serve gets to see."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import FleetError
from cluster.fleet.configuration import FleetFile, describe, read_file

ROOT = Path(__file__).resolve().parents[3]
SMALLEST: dict[str, Any] = {
    "applications": [
        {"import_path": "cluster.fleet.application:build", "args": {"repository": "models"}}
    ]
}


def written(folder: Path, data: Any) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def changed(**parts: Any) -> dict[str, Any]:
    """The smallest file with keys of the file, of the application or of its arguments added."""
    application = SMALLEST["applications"][0]
    arguments = application["args"] | parts.pop("args", {})
    application = application | {"args": arguments} | parts.pop("application", {})
    return SMALLEST | {"applications": [application]} | parts


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(proxy_loction="Disabled"), r"proxy_loction: Extra inputs are not permitted"),
        (changed(application={"external_scaler": True}), r"applications.0.external_scaler: Extra"),
        (changed(args={"slot": 2}), r"applications.0.args.slot: Extra inputs"),
        (
            changed(application={"deployments": [{"name": "Worker", "num_replica": 3}]}),
            r"deployments.0.num_replica: Extra inputs",
        ),
        (
            changed(application={"deployments": [{"name": "Worker", "autoscaling_config": {}}]}),
            "autoscaling_config: Extra",
        ),
        (changed(application={"deployments": [{"name": "Wroker"}]}), "deployments.0.name"),
        (changed(application={"external_scaler_enabled": False}), "external_scaler_enabled"),
        (changed(proxy_location="EveryNode"), "proxy_location"),
        (changed(args={"slots": 0}), "args.slots"),
        (changed(args={"slots": "rack"}), "args.slots"),
        (changed(args={"port": 70_000}), "args.port"),
        (changed(application={"import_path": "somebody.else:app"}), "import_path"),
        ({"applications": []}, "applications"),
        ({}, "applications: Field required"),
        ([1], "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=message) as caught:
        read_file(written(tmp_path, data))
    assert str(tmp_path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="No such file"):
        read_file(tmp_path / "fleet.yaml")
    (tmp_path / "fleet.yaml").write_text("a: [")
    with pytest.raises(FleetError, match="not valid YAML"):
        read_file(tmp_path / "fleet.yaml")


def test_defaults_and_changes(tmp_path: Path) -> None:
    fleet = read_file(written(tmp_path, SMALLEST))
    assert fleet.application.args.repository == str(Path("models").absolute())
    assert fleet.application.args.slots == "node"
    assert fleet.workers == 1
    many = fleet.with_workers(4).with_arguments(slots=4)
    assert (many.workers, many.application.args.slots) == (4, 4)
    assert fleet.workers == 1
    with pytest.raises(FleetError, match="slots"):
        fleet.with_arguments(slots=-1)


def test_serve_gets_what_it_takes() -> None:
    config = describe(Path("models"), slots=2).with_workers(2).serve_config()
    (application,) = config["applications"]
    assert config["proxy_location"] == "Disabled"
    assert application["route_prefix"] is None
    assert application["external_scaler_enabled"] is True
    assert application["deployments"] == [{"name": "Worker", "num_replicas": 2}]
    assert Path(application["args"]["repository"]).is_absolute()
    schema = pytest.importorskip("ray.serve.schema", reason="needs packhorse[fleet]")
    schema.ServeDeploySchema.model_validate(config)


def test_the_file_that_ships_is_valid_and_serves_own_schema_knows_all_keys() -> None:
    path = ROOT / "configs/fleet.yaml"
    assert isinstance(read_file(path), FleetFile)
    schema = pytest.importorskip("ray.serve.schema", reason="needs packhorse[fleet]")
    data = yaml.safe_load(path.read_text())
    parsed = schema.ServeDeploySchema.model_validate(data)
    known = set(schema.ServeApplicationSchema.model_fields)
    assert set(data["applications"][0]) <= known
    for deployment in data["applications"][0]["deployments"]:
        assert set(deployment) <= set(schema.DeploymentSchema.model_fields)
    assert parsed.applications[0].external_scaler_enabled

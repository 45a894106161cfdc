"""Answers against the OpenAPI description of the Open Inference Protocol, made by others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    folder = Path(os.environ.get("PACKHORSE_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    path = folder / "open_inference_rest.yaml"
    if not path.is_file():
        pytest.skip(f"no {path.name} at {folder}; set PACKHORSE_SCHEMAS")
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def valid(contract: dict[str, Any]) -> Callable[[Any, str], None]:
    def check(content: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": contract["components"]}
        jsonschema_rs.Draft4Validator(schema).validate(content)

    return check


NAMES = {"${MODEL_NAME}": "sum_and_difference", "${MODEL_VERSION}": "1"}
INPUT = {"shape": [1, 4], "datatype": "INT32", "data": [1, 2, 3, 4]}
REQUEST = {"id": "7", "inputs": [{"name": "a", **INPUT}, {"name": "b", **INPUT}]}


def test_every_path_of_the_contract_exists_and_answers_as_it_says(shared, contract, valid):
    for path, operations in contract["paths"].items():
        for name, value in NAMES.items():
            path = path.replace(name, value)
        for method, operation in operations.items():
            if method == "parameters":
                continue
            body = REQUEST if "requestBody" in operation else None
            response = shared.http.request(method.upper(), path, json=body)
            assert response.status_code == 200, path
            content = operation["responses"]["200"].get("content")
            if content is not None:
                reference = content["application/json"]["schema"]["$ref"].split("/")[-1]
                valid(response.json(), reference)


def test_our_request_is_one_of_the_contract(valid):
    valid(REQUEST, "inference_request")


def test_paths_without_a_version(shared, valid):
    valid(shared.http.get("/v2/models/identity").json(), "metadata_model_response")
    content = shared.infer("sum_and_difference", REQUEST).json()
    valid(content, "inference_response")
    assert content["id"] == "7"


def test_errors(shared, valid):
    for response in (
        shared.infer("sum_and_difference", {}),
        shared.infer("nobody", REQUEST),
        shared.http.get("/v2/models/nobody"),
        shared.http.get("/nothing"),
    ):
        assert response.status_code >= 400
        valid(response.json(), "inference_error_response")
        valid(response.json(), "metadata_model_error_response")


def test_a_check_that_must_fail(valid):
    with pytest.raises(jsonschema_rs.ValidationError):
        valid({"inputs": [{"name": "a"}]}, "inference_request")

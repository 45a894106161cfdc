"""The table of routes and their description for the OpenAPI page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.gateway.route import DirectRoute, Endpoint
from api.protocol import schemas

PAGE = Path(__file__).with_name("docs.html")

_REFERENCE = "#/components/schemas/{model}"

INFER_EXAMPLE = {
    "id": "42",
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}],
    "outputs": [{"name": "y"}],
}

_PATH_PARAMETERS = {
    "model": "Name of the model.",
    "version": "Version of the model; without it, the highest that serves.",
}


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One operation: where it is, what answers it, and what its bodies look like."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    tag: str
    answer: type[BaseModel] | None = None
    answer_list: bool = False
    body: type[BaseModel] | None = None
    example: dict[str, Any] | None = None
    errors: tuple[int, ...] = ()
    binary: bool = False
    listed: bool = True


def add_route(app: FastAPI, spec: RouteSpec) -> None:
    """Register an operation and document it."""
    extra: dict[str, Any] = {"parameters": _parameters(spec)}
    if spec.body is not None:
        content: dict[str, Any] = {
            "application/json": {
                "schema": {"$ref": _REFERENCE.format(model=spec.body.__name__)},
                **({"example": spec.example} if spec.example is not None else {}),
            }
        }
        if spec.binary:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        extra["requestBody"] = {"required": spec.binary, "content": content}
    model: Any = list[spec.answer] if spec.answer_list and spec.answer else spec.answer  # type: ignore[name-defined]
    responses: dict[int | str, dict[str, Any]] = {
        200: {"model": model} if model is not None else {"description": "Done; the body is empty."}
    }
    for status in spec.errors:
        responses[status] = {"model": schemas.ErrorBody}
    app.router.add_api_route(
        spec.path,
        spec.endpoint,
        methods=[spec.method],
        summary=spec.summary,
        description=spec.endpoint.__doc__ or "",
        tags=[spec.tag],
        response_class=Response,
        response_model=None,
        responses=responses,
        openapi_extra=extra,
        operation_id=_operation_id(spec),
        include_in_schema=spec.listed,
        route_class_override=DirectRoute,
    )


def document_bodies(app: FastAPI, bodies: list[type[BaseModel]]) -> None:
    """Add the schemas of request bodies, which no route declares, to the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, definitions = models_json_schema(
                [(body, "validation") for body in bodies], ref_template=_REFERENCE
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(definitions["$defs"])
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


async def docs_page(request: Request) -> Response:
    """A page that shows the OpenAPI document; loads nothing from elsewhere."""
    policy = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    return Response(
        PAGE.read_bytes(), headers={"Content-Security-Policy": policy}, media_type="text/html"
    )


def _parameters(spec: RouteSpec) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in _PATH_PARAMETERS.items()
        if f"{{{name}}}" in spec.path
    ]
    if spec.binary:
        parameters.append(
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "description": "Bytes of the JSON part; the binary tensors follow it. "
                "0: the body is the model's only input.",
                "schema": {"type": "integer", "minimum": 0},
            }
        )
    return parameters


def _operation_id(spec: RouteSpec) -> str:
    words = [spec.method.lower(), *spec.path.strip("/").split("/")]
    return "_".join(word.strip("{}").replace("-", "_") for word in words if word)

"""The model repository extension: list, load and unload models while the server runs."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

import orjson
from fastapi import Request, Response

from api.errors import BadRequestError, ForbiddenError, UnauthorizedError
from api.gateway.body import request_body
from api.gateway.route import json_response
from api.gateway.state import Gateway
from api.protocol.codec import parse_json
from cluster.catalog import ModelState
from cluster.config import ModelConfig, parse_config


class ManagementRoutes:
    """Answers `/v2/repository/...`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def index(self, request: Request) -> Response:
        """Every model of the repository with its state; `{"ready": true}` lists ready ones only."""
        content = await self._content(request)
        only_ready = content.get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadRequestError("'ready' must be true or false")
        return json_response(
            [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "state": entry.state,
                    "reason": entry.reason,
                }
                for entry in self._gateway.catalog.index()
                if not only_ready or entry.state is ModelState.READY
            ]
        )

    async def load(self, request: Request) -> Response:
        """Load or reload a model from the repository; answers when it serves."""
        self._authorise(request)
        parameters = self._parameters(await self._content(request))
        files = [name for name in parameters if name.startswith("file:")]
        if files:
            raise BadRequestError(
                f"'{files[0][:80]}': model files are not taken from requests; "
                "put the file into the repository and load again"
            )
        config = _override(parameters.get("config"))
        await self._gateway.catalog.load(request.path_params["model"], config)
        return Response()

    async def unload(self, request: Request) -> Response:
        """Finish a model's requests and free it."""
        self._authorise(request)
        self._parameters(await self._content(request))
        await self._gateway.catalog.unload(request.path_params["model"])
        return Response()

    async def _content(self, request: Request) -> dict[str, Any]:
        async with request_body(request, self._gateway.settings, self._gateway.budget) as body:
            return parse_json(body, self._gateway.limits) if body else {}

    @staticmethod
    def _parameters(content: dict[str, Any]) -> dict[str, Any]:
        parameters = content.get("parameters", {})
        if not isinstance(parameters, dict):
            raise BadRequestError("'parameters' must be an object")
        return parameters

    def _authorise(self, request: Request) -> None:
        """Refuse who may not change the models; raises `UnauthorizedError` or `ForbiddenError`."""
        settings = self._gateway.settings
        if settings.management == "off":
            raise ForbiddenError("loading and unloading is switched off (PACKHORSE_MANAGEMENT)")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise ForbiddenError("requests from pages of other sites may not change the models")
        token = settings.management_token
        if token:
            given = request.headers.get("authorization", "")
            if hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return
            raise UnauthorizedError(
                "loading and unloading needs the header 'Authorization: Bearer TOKEN'"
            )
        if not _is_local(request):
            raise ForbiddenError(
                "models can be loaded and unloaded from this machine only; "
                "set PACKHORSE_MANAGEMENT_TOKEN to allow it from others"
            )


def _override(text: Any) -> ModelConfig | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadRequestError("'config' must be a JSON object inside a string")
    try:
        return parse_config(orjson.loads(text), "'config'")
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"'config' is not valid JSON: {error}") from None


def _is_local(request: Request) -> bool:
    if request.client is None:  # a Unix socket
        return True
    try:
        address = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

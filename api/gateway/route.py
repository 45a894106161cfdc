"""How a route answers: plain requests in, plain responses out, every error as `{"error": ...}`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api.errors import retry_after, status_of
from api.logs import REQUEST

logger = logging.getLogger("packhorse.gateway")

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """A FastAPI route that is documented like any other but calls its endpoint directly.

    The endpoint takes the request and returns the response; there is nothing to inject and no body
    to validate with pydantic, so that machinery is left out of the path of every request.
    """

    def get_route_handler(self) -> Endpoint:
        """The endpoint, with its errors turned into answers."""
        endpoint: Endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            try:
                return await endpoint(request)
            except Exception as error:
                return error_response(error)

        return handle


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_response(error: Exception) -> Response:
    """The answer to an error; one that is a defect of ours is logged and not shown."""
    status = status_of(error)
    if status is None:
        logger.error("request failed", exc_info=error)
        context = REQUEST.get()
        where = (
            f"; the server's log has it under request id {context.request_id}" if context else ""
        )
        return json_response({"error": f"internal error{where}"}, 500)
    seconds = retry_after(error)
    headers = None if seconds is None else {"Retry-After": str(seconds)}
    return json_response({"error": str(error) or type(error).__name__}, status, headers)


async def http_error(request: Request, error: Exception) -> Response:
    """The answer to an unknown path or a wrong method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    reasons = {
        404: f"no such resource: {request.url.path[:200]}",
        405: f"method {request.method} is not allowed here; use {headers.get('Allow', 'another')}",
    }
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    return json_response({"error": reasons.get(status, str(detail))}, status, headers)

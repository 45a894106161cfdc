"""Gives every request its id and trace context, and logs it."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.logs import REQUEST, request_context

logger = logging.getLogger("packhorse.access")


class RequestObserver:
    """ASGI middleware: ids in, ids out, one access log line.

    `X-Request-Id` and `traceparent` of the caller are taken over, stand in every log line that the
    request causes and in the answer's headers.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = request_context(headers.get("x-request-id"), headers.get("traceparent"))
        added = [(b"x-request-id", context.request_id.encode())]
        if context.traceparent is not None:
            added.append((b"traceparent", context.traceparent.encode()))
        token = REQUEST.set(context)
        started = time.perf_counter_ns()
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self._app(scope, receive, send_with_ids)
        finally:
            if self._access_log:
                self._log(scope, status, time.perf_counter_ns() - started)
            REQUEST.reset(token)

    @staticmethod
    def _log(scope: Scope, status: int, duration_ns: int) -> None:
        client = scope.get("client")
        path = scope["raw_path"].decode("ascii", "replace")  # escaped: cannot forge log lines
        duration_ms = round(duration_ns / 1e6, 3)
        logger.info(
            "%s %s %d %.3f ms",
            scope["method"],
            path,
            status,
            duration_ms,
            extra={
                "event": "request",
                "method": scope["method"],
                "path": path,
                "status": status,
                "duration_ms": duration_ms,
                "client": client[0] if client else None,
            },
        )

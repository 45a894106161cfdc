"""Logs with request ids: plain lines for people or one JSON object per line for machines."""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import orjson

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(
    r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}"
)

_EXTRAS = ("event", "method", "path", "status", "duration_ms", "client")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What every log line of one request carries."""

    request_id: str
    traceparent: str | None

    @property
    def trace_id(self) -> str | None:
        """Trace id of the W3C trace context."""
        return self.traceparent[3:35] if self.traceparent is not None else None


REQUEST: ContextVar[RequestContext | None] = ContextVar("packhorse_request", default=None)


def request_context(request_id: str | None, traceparent: str | None) -> RequestContext:
    """Take over the caller's id and W3C trace context if they are well formed, else make an id."""
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = secrets.token_hex(8)
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    return RequestContext(request_id, traceparent)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and the request's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback after it if there is one."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        context = REQUEST.get()
        request = f" [{context.request_id}]" if context is not None else ""
        line = f"{time} {record.levelname.lower()} {record.name}{request}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; keys that do not apply are left out."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = REQUEST.get()
        if context is not None:
            entry["request_id"] = context.request_id
            if context.trace_id is not None:
                entry["trace_id"] = context.trace_id
        entry.update(
            {name: getattr(record, name) for name in _EXTRAS if getattr(record, name, None)}
        )
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def configure_logging(level: str, style: Literal["text", "json"]) -> None:
    """Send the logs of packhorse and of uvicorn to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for name, least in (("packhorse", level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False

"""Errors of the gateway, each with the HTTP status that answers it."""

from __future__ import annotations

from cluster.errors import (
    ChannelError,
    ClusterError,
    DeadlineError,
    LoadError,
    ModelNotFoundError,
    ModelUnavailableError,
    RepositoryError,
)
from engine.errors import EngineError, InputError, ModelError, RunError


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


class ApiError(Exception):
    """An error with a status of its own; the message is what the client reads."""

    status = 500

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        """`retry_after` is in seconds and becomes the header `Retry-After`."""
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """The request breaks the protocol or a limit."""

    status = 400


class UnauthorizedError(ApiError):
    """A management request without the right token."""

    status = 401


class ForbiddenError(ApiError):
    """A management request from where none is accepted."""

    status = 403


class RequestTimeoutError(ApiError):
    """The client did not send its body in time."""

    status = 408


class TooLargeError(ApiError):
    """The body is larger than the limit, as sent or after decompression."""

    status = 413


class CancelledRequestError(ApiError):
    """The client went away; nobody reads the answer."""

    status = 499


class UnsupportedError(ApiError):
    """The protocol knows this, we do not do it."""

    status = 501


class OverloadedError(ApiError):
    """A bounded queue or buffer is full, or the server is shutting down."""

    status = 503


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (InputError, 400),
    (RunError, 400),
    (ModelError, 400),
    (LoadError, 400),
    (RepositoryError, 400),
    (ModelNotFoundError, 404),
    (ModelUnavailableError, 503),
    (ChannelError, 503),
    (DeadlineError, 504),
)


def status_of(error: Exception) -> int | None:
    """HTTP status of an error raised on purpose; None for one that is a defect of ours."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, EngineError | ClusterError):
        return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return None


def retry_after(error: Exception) -> int | None:
    """Seconds after which it is worth asking again; None if it is not."""
    if isinstance(error, ApiError):
        return error.retry_after
    return 1 if isinstance(error, ModelUnavailableError | ChannelError) else None

"""Errors as messages carry them: a name that both sides know, and the text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from cluster.channel import wire
from cluster.errors import (
    ChannelError,
    ClusterError,
    DeadlineError,
    LoadError,
    ModelUnavailableError,
)
from engine.errors import EngineError, InputError, RunError

logger = logging.getLogger("packhorse.worker")

_KNOWN: Final[dict[str, type[Exception]]] = {
    kind.__name__: kind
    for kind in (
        InputError,
        RunError,
        DeadlineError,
        ModelUnavailableError,
        ChannelError,
        LoadError,
    )
}
_LONGEST: Final = 60_000


def pack_error(error: BaseException) -> dict[str, str]:
    """The body of an ERROR; what a gateway would not know by name becomes a `ChannelError`."""
    name = next((name for name, kind in _KNOWN.items() if isinstance(error, kind)), None)
    text = str(error)
    if name is None:
        name = ChannelError.__name__
        if not isinstance(error, ClusterError | EngineError):
            text = f"{type(error).__name__}: {error}"
            logger.error("a run failed: %s", text, exc_info=error)
    return {"error": name, "message": text[:_LONGEST]}


def unpack_error(body: Mapping[str, Any]) -> Exception:
    """The error that the body of an ERROR tells of; raises `WireError`."""
    return _KNOWN.get(wire.text(body, "error"), ChannelError)(wire.text(body, "message"))

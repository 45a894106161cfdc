"""What the directory and its clients say to each other, and how often.

Messages are JSON objects over ZeroMQ (DEALER to ROUTER), encrypted and authenticated by the fleet's
secret like the channel itself; see `cluster.channel.security`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from cluster.errors import FleetError

PROTOCOL: Final = 1
RENEW_S = 1.0
"""Seconds between two messages of a client."""

EXPIRE_S = 4.0
"""Seconds after which a silent worker or gateway is forgotten."""

SETTLE_S = 3.0
"""Age at which a directory has heard from every worker that lives."""

Record = dict[str, Any]


def encoded(message: Record) -> bytes:
    """A message as bytes."""
    return json.dumps({"protocol": PROTOCOL, **message}).encode()


def decoded(frames: list[bytes]) -> Record:
    """The message of some frames; raises `FleetError` or `ValueError`."""
    if len(frames) != 1:
        raise FleetError("a message of the directory's protocol has one frame")
    message: Any = json.loads(frames[0])
    if not isinstance(message, dict):
        raise FleetError("a message of the directory's protocol is a JSON object")
    if message.get("protocol") != PROTOCOL:
        raise FleetError(
            f"this end speaks version {PROTOCOL} of the directory's protocol, the other "
            f"{message.get('protocol')!r}; use the same release everywhere"
        )
    return message


def record(value: Any) -> Record:
    """A report as it is; raises `FleetError` if it is none."""
    if not isinstance(value, dict):
        raise FleetError("a report must be a JSON object")
    return value

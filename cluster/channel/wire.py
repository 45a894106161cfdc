"""The messages between gateway and worker, and how they stand in frames.

A message is one header frame and the frames of its tensors. The header is a fixed prefix, whose
first six bytes never change between versions, so that either side can tell the other why they do
not understand each other; a JSON object follows. Nothing in a message is ever executed, and nothing
is believed before it has been checked: whatever is not a message raises `WireError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import orjson

from cluster.channel import ModelKey
from cluster.errors import ChannelError

VERSION: Final = 2
"""Raised whenever a message changes its meaning; both sides must have the same."""

MAX_FRAMES: Final = 4096
MAX_HEADER_BYTES: Final = 16 << 20

_MAGIC: Final = b"PHCH"
_PREFIX: Final = struct.Struct("<4sHBxQq")


class Kind(IntEnum):
    """What a message is; the comment says who sends it and what the JSON object holds."""

    HELLO = 1  # gateway: gateway, arena, buffers
    WELCOME = 2  # worker: incarnation, credits, arena, buffers (whether it reads ours)
    REFUSED = 3  # worker: reason
    LOAD = 4  # gateway: key, path, threads, precision, warmup
    PROGRESS = 5  # worker: stage, done, total
    LOADED = 6  # worker: description
    UNLOAD = 7  # gateway: key
    UNLOADED = 8  # worker
    RUN = 9  # gateway: key, outputs, tensors, released; with the time that is left
    ANSWER = 10  # worker: tensors
    ERROR = 11  # worker: error, message
    CANCEL = 12  # gateway; of a run or a load
    ISOLATE = 13  # gateway: nothing but its runs, until RESUME
    ISOLATED = 14  # worker: from here on
    RESUME = 15  # gateway
    BEAT = 16  # both, at every interval; gateway: released, mapped; worker: credits, stats
    LEAVING = 17  # both: send nothing more, what was sent is still answered


class WireError(ChannelError):
    """A frame that is not a message of this protocol."""


class VersionError(WireError):
    """A message of another version of the protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message taken apart; `left_s` is the time to the deadline, None where there is none."""

    kind: Kind
    id: int
    left_s: float | None
    body: dict[str, Any]
    frames: Sequence[bytes]


def pack(kind: Kind, body: Mapping[str, Any], id: int = 0, left_s: float | None = None) -> bytes:
    """The header frame of a message."""
    left = -1 if left_s is None else max(0, round(left_s * 1e6))
    return _PREFIX.pack(_MAGIC, VERSION, kind, id, left) + orjson.dumps(body)


def unpack(frames: Sequence[bytes]) -> Message:
    """Take a message apart; raises `WireError`, and `VersionError` for another version."""
    if not frames or len(frames) > MAX_FRAMES:
        raise WireError(f"a message has {len(frames)} frames, 1 to {MAX_FRAMES} are allowed")
    header = frames[0]
    if len(header) < 6 or header[:4] != _MAGIC:
        raise WireError("a frame does not begin like a message of Packhorse's channel")
    version = int.from_bytes(header[4:6], "little")
    if version != VERSION:
        raise VersionError(
            f"the other side speaks version {version} of the channel, this one version {VERSION}; "
            "run the same release of Packhorse on gateways and workers"
        )
    if not _PREFIX.size <= len(header) <= MAX_HEADER_BYTES:
        raise WireError(f"a header has {len(header)} bytes")
    _, _, number, identity, left = _PREFIX.unpack_from(header)
    try:
        kind = Kind(number)
        body = orjson.loads(memoryview(header)[_PREFIX.size :])
    except ValueError as error:
        raise WireError(f"a header cannot be read: {error}") from None
    if not isinstance(body, dict):
        raise WireError("a header holds no JSON object")
    return Message(kind, identity, None if left < 0 else left / 1e6, body, frames[1:])


def text(body: Mapping[str, Any], name: str, *, longest: int = 1 << 16) -> str:
    """The string `name` of a message; raises `WireError`."""
    value = body.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise WireError(f"'{name}' must be a string of at most {longest} characters")
    return value


def count(body: Mapping[str, Any], name: str, *, largest: int = 1 << 62) -> int:
    """The non-negative integer `name` of a message; raises `WireError`."""
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise WireError(f"'{name}' must be an integer from 0 to {largest}")
    return value


def counts(body: Mapping[str, Any], name: str) -> list[int]:
    """The list of non-negative integers `name`, empty where it is missing; raises `WireError`."""
    value = body.get(name, [])
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise WireError(f"'{name}' must be a list of non-negative integers")
    return value


def texts(body: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """The list of strings `name`, None where it is missing or null; raises `WireError`."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError(f"'{name}' must be a list of strings")
    return tuple(value)


def model_key(body: Mapping[str, Any]) -> ModelKey:
    """The key of a message; raises `WireError`."""
    match body.get("key"):
        case [str(name), int(version), int(generation)]:
            return ModelKey(name, version, generation)
    raise WireError("'key' must be a model's name, version and generation")

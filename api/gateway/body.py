"""Reading request bodies, bounded in bytes and time, whatever the client declares or compresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt
from fastapi import Request

from api.errors import (
    BadRequestError,
    CancelledRequestError,
    RequestTimeoutError,
    TooLargeError,
)
from api.gateway.state import BodyBudget
from api.protocol.compression import inflate
from api.settings import Settings
from cluster.channel.copying import join
from cluster.channel.tensors import SHARED_BYTES

Place = Callable[[int], npt.NDArray[np.uint8] | None]
"""Memory for a body of so many bytes, None where a body of its own will do."""

_THREAD_BYTES = 64 << 10  # from here on, unpacking would hold up the other requests noticeably


@asynccontextmanager
async def request_body(
    request: Request, settings: Settings, budget: BodyBudget, place: Place | None = None
) -> AsyncIterator[bytes | memoryview]:
    """The body, decompressed. Its bytes stay reserved in `budget` until the block ends.

    A large one that is not compressed is put together in `place`, where that gives room. Raises
    `TooLargeError`, `RequestTimeoutError`, `OverloadedError`, `CancelledRequestError`, and for a
    bad encoding `UnsupportedError` or `BadRequestError`.
    """
    reserved = 0
    try:
        limit = settings.max_body_bytes
        declared = _declared_length(request)
        if declared > limit:
            raise TooLargeError(f"the body has {declared} bytes, the limit is {limit}")
        encoding = request.headers.get("content-encoding")
        packed = encoding is not None and encoding.strip().lower() != "identity"
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise CancelledRequestError("the client went away")
                    chunk: bytes = message.get("body", b"")
                    more = message.get("more_body", False)
                    if reserved + len(chunk) > limit:
                        raise TooLargeError(f"the body is larger than the limit of {limit} bytes")
                    budget.take(len(chunk))
                    reserved += len(chunk)
                    chunks.append(chunk)
                    if len(chunks) > 1024:  # many tiny chunks must not cost more than their bytes
                        chunks = [b"".join(chunks)]
        except TimeoutError:
            raise RequestTimeoutError(
                f"the body did not arrive within {settings.body_timeout_s:g} s"
            ) from None
        room = None
        if place is not None and not packed and reserved >= SHARED_BYTES:
            room = place(reserved)
        if room is not None:
            # Its pieces are joined in any case. Done one by one as they come, it delays the client
            # and takes twice as long.
            join([np.frombuffer(chunk, np.uint8) for chunk in chunks], room)
            chunks.clear()
            yield room.data.toreadonly()
            return
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if encoding is not None and packed:
            if len(body) < _THREAD_BYTES:
                body = inflate(body, encoding, limit)
            else:
                body = await asyncio.to_thread(inflate, body, encoding, limit)
            budget.take(len(body))
            reserved += len(body)
        yield body
    finally:
        budget.give(reserved)


def _declared_length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadRequestError(f"Content-Length must be a byte count, not {text[:40]!r}")
    return int(text)

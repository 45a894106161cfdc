"""Content encodings of bodies: gzip and deflate (zlib), inflated within limits."""

from __future__ import annotations

import zlib

from api.errors import BadRequestError, TooLargeError, UnsupportedError

ENCODINGS = {"gzip": 31, "deflate": 15}
"""`wbits` of zlib by the name of the encoding."""

_LEVEL = 1  # tensors compress badly: the fastest level gives up little


def inflate(body: bytes | bytearray, encoding: str, limit: int) -> bytes:
    """Decompress a body; never makes more than `limit` bytes, whatever the body claims.

    Raises `UnsupportedError`, `TooLargeError`, or `BadRequestError` for damaged data.
    """
    name = encoding.strip().lower()
    if name not in ENCODINGS:
        raise UnsupportedError(
            f"content encoding {encoding[:40]!r} is not supported; use gzip or deflate"
        )
    pieces: list[bytes] = []
    size = 0
    rest = bytes(body)
    try:
        while rest:  # a gzip body may consist of several members
            stream = zlib.decompressobj(ENCODINGS[name])
            piece = stream.decompress(rest, limit - size + 1)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise TooLargeError(f"the decompressed body is larger than {limit} bytes")
            if not stream.eof:
                raise BadRequestError(f"the {name} body ends too early")
            rest = stream.unused_data
    except zlib.error as error:
        raise BadRequestError(f"the body is not valid {name}: {error}") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def deflate(body: bytes, encoding: str) -> bytes:
    """Compress a body; `encoding` is one of `ENCODINGS`."""
    stream = zlib.compressobj(_LEVEL, wbits=ENCODINGS[encoding])
    return stream.compress(body) + stream.flush()


def asked_encoding(accept: str | None) -> str | None:
    """The encoding that an `Accept-Encoding` asks for: one that is named alone.

    The stock client names one when its user asked for a compressed answer. HTTP libraries name all
    they can read ("gzip, deflate, br") with every request, without anybody having asked; to
    compress those would cost more time than sending them takes.
    """
    if accept is None:
        return None
    name = accept.strip().lower()
    return name if name in ENCODINGS else None

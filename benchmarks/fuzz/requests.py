"""Damaged HTTP requests: JSON, binary tensors, headers, compression, framing."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final

import numpy as np

_SIZES: Final = (-1, 0, 1, 2, 7, 64, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 2**70)
_INTEGERS: Final = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_DATATYPES: Final = (*_INTEGERS, "BOOL", "FP16", "FP32", "FP64", "BF16", "BYTES", "FP8", "fp32")
_TEXTS: Final = ("", "x", "y", "\0", "é", "\ud800", "../..", "a" * 300, "1", "NaN", "%00")
_JUNK: Final = (None, True, 1.5, 1e308, -1, 2**70, "", "x", [], {}, [[]], [{}], {"x": [1]}, [None])
_ENCODINGS: Final = ("gzip", "deflate", "identity", "br", "zstd", "gzip, gzip", "GZIP", "")
_PATHS: Final = (
    ("GET", "/v2"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/models/{}"),
    ("GET", "/v2/models/{}/ready"),
    ("GET", "/v2/models/{}/config"),
    ("GET", "/v2/models/{}/stats"),
    ("GET", "/v2/models/{}/versions/1"),
    ("POST", "/v2/repository/index"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
)
_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "X")


@dataclass(frozen=True)
class Sent:
    """Bytes of a request; `framed` says that they are one whole HTTP request, as far as we know."""

    content: bytes
    framed: bool


def valid_infer(model: str, random: Random) -> tuple[dict[str, Any], bytes, str]:
    """A request that the model answers: its JSON part, its binary part, and the path."""
    rows = random.randrange(4)
    arrays: dict[str, Any] = {
        "identity": {"x": np.ones((rows, 2), np.float32)},
        "total": {"a": np.ones((rows, 4), np.int32), "b": np.ones((rows, 4), np.int32)},
        "lookup": {"index": np.arange(rows, dtype=np.int64)},
        "text": {"x": np.array([b"ab"] * rows, object)},
        "digits": {"image": np.zeros((rows, 1, 8, 8), np.float32)},
    }[model]
    inputs, tail = [], b""
    binary = random.random() < 0.5
    for name, array in arrays.items():
        kind = {"f": "FP32", "i": f"INT{array.itemsize * 8}", "O": "BYTES"}[array.dtype.kind]
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": kind}
        if binary:
            data = b"".join(b"\2\0\0\0" + item for item in array) if kind == "BYTES" else b""
            data = data or array.tobytes() if kind != "BYTES" else data
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            data = array.astype(str) if kind == "BYTES" else array
            tensor["data"] = data.reshape(-1).tolist()
        inputs.append(tensor)
    request: dict[str, Any] = {"id": "7", "inputs": inputs}
    if random.random() < 0.3:
        request["parameters"] = {"binary_data_output": random.random() < 0.5}
    if random.random() < 0.2:
        request["parameters"] = {"timeout": 10**7, "priority": 3}
    return request, tail, f"/v2/models/{model}/infer"


MODELS: Final = ("identity", "total", "lookup", "text", "digits")


def damaged(seed: int, number: int) -> Sent:
    """Request `number`: a valid one with something wrong in one or several of its layers."""
    random = Random(f"{seed} {number}")
    if random.random() < 0.1:
        return _other_path(random)
    request, tail, path = valid_infer(random.choice(MODELS), random)
    if random.random() < 0.6:
        for _ in range(random.randint(1, 4)):
            request = _change_json(request, random)
    body = _dump(request, random)
    length: Any = len(body)
    if random.random() < 0.25:
        body = _change_bytes(body, random)
    if random.random() < 0.3:
        length = random.choice((*_SIZES, len(body) - 1, len(body) + 1, "x", "1e2", "", " 5", "+5"))
    if random.random() < 0.3:
        tail = _change_bytes(tail, random)
    headers: list[tuple[str, str]] = [("Content-Type", "application/octet-stream")]
    if tail or random.random() < 0.1:
        headers.append(("Inference-Header-Content-Length", str(length)))
    content, headers = _encode(body + tail, headers, random)
    return _frame("POST", path, headers, content, random)


def _other_path(random: Random) -> Sent:
    method, path = random.choice(_PATHS)
    if random.random() < 0.4:
        method = random.choice(_METHODS)
    name = random.choice((*MODELS, "nothing", "a/b", "%2e%2e", "%ff", "x" * 500, "\t"))
    body = random.choice((b"", b"{}", b"[]", b'{"ready": 3}', b"{", random.randbytes(20)))
    return _frame(method, path.format(name), [], body, random)


def _change_json(value: Any, random: Random) -> Any:
    """The document with one place changed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        changed = dict(value)
        key = random.choice(list(changed))
        kind = random.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.15:
            changed[random.choice(_TEXTS)] = changed.pop(key)
        elif kind < 0.25:
            changed[random.choice(("parameters", "data", "shape", "raw", "outputs"))] = _junk(
                random
            )
        else:
            changed[key] = _known(key, changed[key], random)
        return changed
    if isinstance(value, list) and value and random.random() < 0.8:
        listed = list(value)
        at = random.randrange(len(listed))
        kind = random.random()
        if kind < 0.15:
            del listed[at]
        elif kind < 0.35:
            listed.append(listed[at])
        else:
            listed[at] = _change_json(listed[at], random)
        return listed
    if isinstance(value, int) and random.random() < 0.6:
        return random.choice(_SIZES)
    return _junk(random)


def _known(key: str, value: Any, random: Random) -> Any:
    if key == "datatype" and random.random() < 0.7:
        return random.choice(_DATATYPES)
    if key in ("binary_data_size", "timeout", "priority") and random.random() < 0.8:
        return random.choice(_SIZES)
    return _change_json(value, random)


def _junk(random: Random) -> Any:
    if random.random() < 0.05:
        deep: Any = 1
        for _ in range(random.choice((50, 99, 101, 500))):
            deep = [deep]
        return deep
    if random.random() < 0.2:
        return random.choice(_TEXTS)
    return random.choice(_JUNK)


def _dump(request: Any, random: Random) -> bytes:
    text = json.dumps(request, ensure_ascii=random.random() < 0.7)
    return text.encode("utf-8", "surrogatepass")


def _change_bytes(data: bytes, random: Random) -> bytes:
    found = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(found) + 1)
        kind = random.randrange(4)
        if kind == 0:
            del found[at : at + random.choice((1, 4, 30))]
        elif kind == 1:
            found[at:at] = random.choice(
                (b"\0", b"\xff", b"{", b"[" * 200, b"[" * 100_000, b'"', random.randbytes(4))
            )
        elif kind == 2:
            del found[at:]
        elif at < len(found):
            found[at] = random.randrange(256)
    return bytes(found)


@cache
def _bomb() -> bytes:
    """A small body that is above the limit once unpacked."""
    return gzip.compress(bytes(200 << 20), 1, mtime=0)


def _encode(
    body: bytes, headers: list[tuple[str, str]], random: Random
) -> tuple[bytes, list[tuple[str, str]]]:
    """The body compressed, or said to be."""
    if random.random() > 0.2:
        return body, headers
    name = random.choice(_ENCODINGS)
    if "gzip" in name.lower():
        body = gzip.compress(body, mtime=0)
    elif name == "deflate":
        body = zlib.compress(body)
    if random.random() < 0.1:
        body = _bomb()
    if random.random() < 0.5:
        body = _change_bytes(body, random)
    return body, [*headers, ("Content-Encoding", name)]


def _frame(
    method: str, path: str, headers: list[tuple[str, str]], body: bytes, random: Random
) -> Sent:
    framed = True
    length: Any = len(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    kind = random.random()
    if kind < 0.1:
        length, framed = random.choice((*_SIZES, length + 1, max(length - 1, 0), "x", "")), False
    if kind < 0.9:
        lines.append(f"Content-Length: {length}")
    else:
        lines.append("Transfer-Encoding: chunked")
        body = _chunked(body, random)
        if random.random() < 0.5:
            body, framed = _change_bytes(body, random), False
    lines += [f"{name}: {value}" for name, value in headers]
    if random.random() < 0.05:
        lines.append(random.choice(("Bad Header: 1", ": x", "X: " + "y" * 70_000, "Expect: 100")))
        framed = False
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    if random.random() < 0.03:
        head, framed = _change_bytes(head, random), False
    if any(ord(c) < 33 or ord(c) > 126 for c in method + path) or method not in _METHODS[:7]:
        framed = False
    return Sent(head + body, framed)


def _chunked(body: bytes, random: Random) -> bytes:
    found, at = b"", 0
    while at < len(body):
        part = body[at : at + random.choice((1, 10, 1000))] if len(body) < 5000 else body
        found += f"{len(part):x}\r\n".encode() + part + b"\r\n"
        at += len(part)
    return found + b"0\r\n\r\n"

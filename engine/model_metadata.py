"""What a model file says about itself, read without its weights.

The file is walked field by field in protobuf's wire format (protobuf.dev, "Encoding"): nodes and
initialisers are skipped unread, so that the cost does not depend on the size of the weights.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from engine.errors import ModelError

_LONGEST_TEXT: Final = 1 << 20
"""Bytes of a text that are read at most."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types."""

# Field numbers in onnx.proto, of ModelProto, GraphProto and StringStringEntryProto.
_PRODUCER, _DOMAIN, _VERSION, _DOC, _GRAPH, _PROPERTIES = 2, 4, 5, 6, 7, 14
_GRAPH_NAME, _GRAPH_DOC = 2, 10
_GRAPH_TEXTS: Final = (_GRAPH_NAME, _GRAPH_DOC)
_KEY, _VALUE = 1, 2


@dataclass
class ModelMetadata:
    """Metadata under onnxruntime's names; a file that names no version has the largest one."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = (1 << 63) - 1
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


def read_metadata(source: str | Path | bytes) -> ModelMetadata:
    """Metadata of a model file, or of its bytes. Raises ModelError for one that is damaged."""
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                return _model(file, os.fstat(file.fileno()).st_size)
        return _model(io.BytesIO(source), len(source))
    except (OSError, ValueError) as error:
        raise ModelError(f"the model's metadata cannot be read: {error}") from error


def _model(file: BinaryIO, end: int) -> ModelMetadata:
    found = ModelMetadata()
    for number, value in _fields(file, end):
        if number == _PRODUCER:
            found.producer_name = _text(file, value)
        elif number == _DOMAIN:
            found.domain = _text(file, value)
        elif number == _DOC:
            found.description = _text(file, value)
        elif number == _VERSION:
            found.version = value - (1 << 64) if value >> 63 else value
        elif number == _GRAPH:
            texts = {n: _text(file, v) for n, v in _fields(file, value) if n in _GRAPH_TEXTS}
            found.graph_name = texts.get(_GRAPH_NAME, "")
            found.graph_description = texts.get(_GRAPH_DOC, "")
        elif number == _PROPERTIES:
            pair = {n: _text(file, v) for n, v in _fields(file, value)}
            found.custom_metadata_map[pair.get(_KEY, "")] = pair.get(_VALUE, "")
    return found


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and value of each field up to offset `end`.

    The value of a field with content is the offset where it ends; the file stands at its begin.
    """
    while file.tell() < end:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            yield number, _varint(file)
        elif wire == _BYTES:
            length = _varint(file)
            stop = file.tell() + length
            if stop > end:
                raise ValueError(f"field {number} ends after its message")
            yield number, stop
            file.seek(stop)
        elif wire in (_FIXED64, _FIXED32):
            file.seek(8 if wire == _FIXED64 else 4, os.SEEK_CUR)
        else:
            raise ValueError(f"field {number} has wire type {wire}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number does not end")


def _text(file: BinaryIO, end: int) -> str:
    length = max(end - file.tell(), 0)
    return file.read(min(length, _LONGEST_TEXT)).decode(errors="replace")

"""Tensor data as JSON: nested or flat lists in requests, flat lists in answers."""

from __future__ import annotations

import json
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson

from api.errors import BadRequestError
from api.protocol.datatypes import DTYPES, datatype_of
from cluster.session import Tensor

_KINDS = {
    bool: "booleans",
    int: "integers",
    float: "fractions",
    str: "strings",
    dict: "objects",
    type(None): "null",
}


def parse_data(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> Tensor:
    """Make a tensor of decoded JSON `data`.

    Raises `BadRequestError` for ragged lists, a wrong element count, elements of the wrong kind
    and values out of the type's range.
    """
    flat, kinds = _flatten(data if isinstance(data, list) else [data], where)
    if len(flat) != prod(shape):
        raise BadRequestError(
            f"{where}: 'data' has {len(flat)} elements, shape {list(shape)} needs {prod(shape)}"
        )
    if not kinds <= _accepted(datatype):
        found = " and ".join(sorted(_KINDS[kind] for kind in kinds))
        raise BadRequestError(f"{where}: 'data' has {found}, which do not fit {datatype}")
    if datatype == "BYTES":
        tensor = np.empty(len(flat), object)
        tensor[:] = flat
    elif datatype == "BOOL" and int in kinds and not set(flat) <= {0, 1}:
        raise BadRequestError(f"{where}: 'data' of a BOOL tensor must be true, false, 0 or 1")
    else:
        tensor = _numbers(flat, datatype, where)
    return tensor.reshape(shape)


def _flatten(data: list[Any], where: str) -> tuple[list[Any], set[type]]:
    """The elements in order and their types.

    Works level by level with loops that run inside the interpreter's C code. numpy is not asked to
    find out the types: for one long string among many numbers it would allocate that length for
    each of them.
    """
    kinds: set[type] = set(map(type, data))
    while list in kinds:
        if len(kinds) > 1 or len(set(map(len, data))) > 1:
            raise BadRequestError(f"{where}: 'data' is ragged: its lists differ in depth or length")
        data = list(chain.from_iterable(data))
        kinds = set(map(type, data))
    return data, kinds


def _accepted(datatype: str) -> set[type]:
    kind = DTYPES[datatype].kind
    if kind == "O":
        return {str}
    if kind == "b":
        return {bool, int}
    return {int} if kind in "iu" else {int, float}


def _numbers(flat: list[Any], datatype: str, where: str) -> Tensor:
    dtype = DTYPES[datatype]
    try:
        with np.errstate(over="ignore"):
            tensor: Tensor = np.array(flat, dtype)
    except OverflowError:
        raise BadRequestError(f"{where}: 'data' has values out of range for {datatype}") from None
    if dtype.kind in "fV" and not np.isfinite(tensor).all():
        raise BadRequestError(f"{where}: 'data' has values out of range for {datatype}")
    return tensor


def dump_data(tensor: Tensor) -> Any:
    """A tensor as what `orjson.dumps` with `OPT_SERIALIZE_NUMPY` writes as a flat list.

    NaN and infinities are written as the tokens `NaN` and `Infinity`, as Triton does: strict JSON
    cannot say them, but Python's and the client's parsers read them; `null` would lose the value.
    Raises `BadRequestError` for bytes that are not UTF-8: those must be asked for as binary data.
    """
    flat = np.ascontiguousarray(tensor).reshape(-1)
    if datatype_of(flat.dtype) == "BYTES":
        return [_text(item) for item in flat.tolist()]
    if flat.dtype.kind not in "fV":
        return flat
    if flat.dtype.itemsize < 4:
        flat = flat.astype(np.float32)
    if np.isfinite(flat).all():
        return flat
    return orjson.Fragment(json.dumps(flat.tolist(), separators=(",", ":")))


def _text(item: Any) -> str:
    text = item if isinstance(item, str) else bytes(item).decode("utf-8", "surrogateescape")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequestError(
            "an output has bytes that are not UTF-8; ask for it with 'binary_data': true"
        ) from None
    return text

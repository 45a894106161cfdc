"""Limits on what a request may ask us to hold or to parse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from api.errors import BadRequestError

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest nesting depth of JSON and largest element count of a tensor."""

    json_depth: int = 100
    elements: int = 1 << 31


def check_depth(text: bytes | memoryview, limit: int) -> None:
    """Refuse JSON nested deeper than `limit` before anything recursive sees it.

    The number of opening brackets bounds the depth from above and is nearly free; only a body that
    has more of them than the limit, such as nested tensor data, is measured exactly.
    """
    data = bytes(text)
    if data.count(b"[") + data.count(b"{") <= limit:
        return
    steps = _STEP[np.frombuffer(_STRING.sub(b"", data), np.uint8)]
    if int(np.cumsum(steps, dtype=np.int64).max(initial=0)) > limit:
        raise BadRequestError(f"the JSON body is nested deeper than {limit} levels")


def check_shape(shape: Any, where: str, limits: Limits) -> tuple[int, ...]:
    """A `shape` from JSON as a tuple; refuses what is no list of sizes and what is too large."""
    if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
        raise BadRequestError(f"{where}: 'shape' must be a list of integers")
    if len(shape) > 32:
        raise BadRequestError(f"{where}: 'shape' has {len(shape)} dimensions, at most 32 work")
    if any(dim < 0 for dim in shape):
        raise BadRequestError(f"{where}: 'shape' {shape} has a negative dimension")
    # A zero must not hide the size of the other dimensions from numpy's own overflow check.
    if prod(max(dim, 1) for dim in shape) > limits.elements:
        raise BadRequestError(
            f"{where}: 'shape' {shape} has more elements than the limit of {limits.elements}"
        )
    return tuple(shape)

"""The protocol's sequence extension: which request belongs to which sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.errors import BadRequestError

_MAX_ID = (1 << 64) - 1
_MAX_ID_LENGTH = 128


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence: the sequence's id, and whether it is the first or last."""

    id: int | str
    start: bool
    end: bool


def sequence_step(parameters: Mapping[str, Any]) -> SequenceStep | None:
    """The step that a request's parameters name; None for id 0 or "", or none at all.

    Raises `BadRequestError` for parameters of a wrong type.
    """
    number = parameters.get("sequence_id")
    start, end = (_flag(parameters, name) for name in ("sequence_start", "sequence_end"))
    if number is None or number == 0 or number == "":
        if start or end:
            raise BadRequestError("'sequence_start' and 'sequence_end' need a 'sequence_id'")
        return None
    whole = type(number) is int and 0 <= number <= _MAX_ID
    if not whole and not (isinstance(number, str) and len(number) <= _MAX_ID_LENGTH):
        raise BadRequestError(
            f"'sequence_id' must be an unsigned 64-bit integer or a string of at most "
            f"{_MAX_ID_LENGTH} characters"
        )
    return SequenceStep(number, start, end)


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise BadRequestError(f"'{name}' must be true or false")
    return value

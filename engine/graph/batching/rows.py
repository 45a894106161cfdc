"""Rows of the batch, and the registry of the rules that say along which axis a node carries them.

A rule sees the rows' axis of every input and returns the outputs' (one for all, or a list), or
raises `Refusal`. Inputs that only say a shape are not looked at: what they do to the rows shows in
the inferred shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from engine.graph.dims import Dim, symbol
from engine.graph.ir import Node, Value


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """Why rows are not proven independent."""


class Rows:
    """Which values carry the rows of the batch, and along which axis."""

    def __init__(self, name: str) -> None:
        self.symbol = name
        self.size = symbol(name)
        self._axes: dict[int, int] = {}
        self._numbers: set[int] = set()

    def axis(self, value: Value | None) -> int | None:
        """Axis of the rows, None for a value without them."""
        return None if value is None else self._axes.get(id(value))

    def is_number(self, value: Value | None) -> bool:
        """Whether the value is computed from the size of the batch."""
        return value is not None and id(value) in self._numbers

    def touches(self, value: Value) -> bool:
        """Whether the value depends on the batch at all."""
        return id(value) in self._axes or id(value) in self._numbers

    def carry(self, value: Value, axis: int) -> None:
        """Say that a value carries the rows along `axis`."""
        self._axes[id(value)] = axis

    def set_number(self, value: Value) -> None:
        """Say that a value is computed from the size of the batch."""
        self._numbers.add(id(value))

    def divides(self, dim: Dim) -> bool:
        """Whether `dim` is the batch size times something that does not depend on it."""
        factor = dim // self.size
        return self.symbol not in factor.symbols and factor * self.size is dim


Result: TypeAlias = "int | list[int | None] | None"
Rule: TypeAlias = Callable[[Node, Rows], Result]

RULES: Final[dict[str, Rule]] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register the rule of `operators`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def shape_of(value: Value | None) -> tuple[Dim, ...]:
    """Shape of an input; refuses where it is not known."""
    if value is None or value.shape is None:
        raise Refusal(f"reads {value.name if value else 'an input'!r}, whose shape is not known")
    return value.shape


def rank_of(value: Value | None) -> int:
    """Rank of an input; refuses where it is not known."""
    return len(shape_of(value))


def require_free(rows: Rows, values: Sequence[Value | None]) -> None:
    """Require that none of the values depends on the batch."""
    for value in values:
        if value is not None and rows.touches(value):
            raise Refusal(f"uses {value.name!r}, which depends on the batch, for every row")


def data_axis(node: Node, rows: Rows, others_from: int = 1) -> int:
    """Rows' axis of input 0, the only one that depends on the batch."""
    axis = rows.axis(node.input(0))
    require_free(rows, node.inputs[others_from:])
    if axis is None:
        raise Refusal("computes with the size of the batch")
    return axis


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def constants_of(value: Value | None) -> list[int] | None:
    """Elements of a constant integer vector, None where they are not known."""
    if value is None:
        return None
    if value.data is not None:
        return [int(item) for item in value.data.reshape(-1)]
    if value.dims is None or not all(dim.is_constant for dim in value.dims):
        return None
    return [dim.value for dim in value.dims]


def aligned_distance(node: Node, rows: Rows, values: Sequence[Value | None], drop: int = 0) -> int:
    """Distance from the last axis at which broadcasting `values` carry the rows; `drop` trailing
    axes do not take part.
    """
    distances = set()
    for value in values:
        axis = rows.axis(value)
        if axis is not None:
            distances.add(rank_of(value) - drop - axis)
        elif rows.is_number(value):
            raise Refusal("computes with the size of the batch")
    if len(distances) != 1 or min(distances) < 1:
        raise Refusal("brings together different axes of the batch")
    distance = distances.pop()
    for value in values:
        if value is None or rows.axis(value) is not None:
            continue
        position = rank_of(value) - drop - distance
        if position >= 0 and shape_of(value)[position] != 1:
            raise Refusal(f"gives every row of the batch an entry of {value.name!r}")
    return distance

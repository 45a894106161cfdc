"""A kernel call as tokens see it: where its operands carry them, read off its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from engine.graph.dim_substitution import Substitution
from engine.graph.dims import Dim, symbol
from engine.plan.lowering import Call
from engine.plan.tensor import ONE, ZERO, Space, Tensor


class Unfit(Exception):  # noqa: N818 - an answer, not an error
    """Why sequences of different lengths cannot share a run of a program."""


class Room(Enum):
    """What a buffer holds of several sequences: `OWN` is memory apart for each, `STEPS` the states
    of all of them while a recurrent layer runs."""

    TOKENS = "tokens"
    ROWS = "rows"
    OWN = "own"
    SHARED = "shared"
    STEPS = "steps"


@dataclass(frozen=True)
class Place:
    """Room of a buffer, and the bytes of a token or a row."""

    room: Room
    unit: int = 0


@dataclass(frozen=True)
class Axis:
    """Where a tensor carries tokens or rows: the axis, and entries per token."""

    number: int
    factor: int


@dataclass
class Rooms:
    """What is known of a program's buffers, by ``id``: places, and those alike for all sequences.

    `one` puts a batch of one into dims.
    """

    one: Substitution
    places: Mapping[int, Place]
    shared: AbstractSet[int]


def multiple(dim: Dim, name: str) -> int | None:
    """The constant that `dim` is of the symbol `name`, None where it is something else."""
    size = symbol(name)
    factor = dim // size
    if factor.is_constant and factor.value > 0 and factor * size == dim:
        return factor.value
    return None


class View:
    """A call seen as one over tokens (or rows): reads off where its operands carry them."""

    def __init__(self, rooms: Rooms, call: Call, room: Room, name: str) -> None:
        self.rooms = rooms
        self.call = call
        self.room = room
        self.name = name

    def dim(self, dim: Dim) -> Dim:
        """A dim for a batch of one; for rows, whatever it is."""
        return self.rooms.one(dim) if self.room is Room.TOKENS else dim

    def number(self, field_: str) -> Dim:
        """An integer parameter of the call."""
        value = self.call.arguments[field_]
        assert isinstance(value, Dim)
        return self.dim(value)

    def require_fixed(self, *fields: str) -> None:
        """Require that parameters do not depend on the sizes."""
        for name in fields:
            if name in self.call.arguments and self.number(name).symbols:
                raise Unfit(f"{name} depends on the sizes")

    def tensor(self, name: str) -> Tensor:
        """A tensor of the call."""
        value = self.call.arguments[name]
        assert isinstance(value, Tensor)
        return value

    def names(self) -> list[str]:
        """Names of the call's tensors."""
        return [n for n, value in self.call.arguments.items() if isinstance(value, Tensor)]

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the same for every sequence."""
        return tensor.buffer.space is Space.WEIGHTS or id(tensor.buffer) in self.rooms.shared

    def carried(self, tensor: Tensor) -> Axis:
        """The axis along which a tensor carries tokens; Unfit where it does not do so densely."""
        place = self.rooms.places.get(id(tensor.buffer))
        if place is None or place.room is not self.room:
            raise Unfit(f"{tensor.buffer.name} does not hold {self.room.value}")
        found: Axis | None = None
        low = high = 0
        for number, (size, stride) in enumerate(zip(tensor.shape, tensor.strides, strict=True)):
            size, stride = self.dim(size), self.dim(stride)
            if size == ONE:
                continue
            factor = multiple(size, self.name)
            if factor is not None:
                if found is not None or stride.symbols:
                    raise Unfit(f"{tensor.buffer.name} carries them along two axes")
                if stride.value * factor * tensor.itemsize != place.unit:
                    raise Unfit(f"{tensor.buffer.name} does not carry them densely")
                found = Axis(number, factor)
                high += stride.value * (factor - 1)
                continue
            if size.symbols or stride.symbols:
                raise Unfit(f"{tensor.buffer.name} has another axis of open size")
            reach = (size.value - 1) * stride.value
            low, high = low + min(reach, 0), high + max(reach, 0)
        offset = self.dim(tensor.offset)
        if found is None or offset.symbols:
            raise Unfit(f"{tensor.buffer.name} does not carry them")
        low, high = low + offset.value, high + offset.value
        if low < 0 or (high + 1) * tensor.itemsize > place.unit:
            raise Unfit(f"{tensor.buffer.name} reaches beyond its own")
        return found

    def require_free(self, tensor: Tensor) -> None:
        """Require a tensor that is the same for all: constant, and not stepped through by them."""
        if not self.is_constant(tensor) or self.dim(tensor.offset).symbols:
            raise Unfit(f"{tensor.buffer.name} is not the same for all")
        for size, stride in zip(tensor.shape, tensor.strides, strict=True):
            if self.dim(size).symbols and self.dim(stride) != ZERO:
                raise Unfit(f"{tensor.buffer.name} is stepped through")

    def require_alike(self, first: str, names: Sequence[str]) -> None:
        """Require tensors to carry their tokens along the same axis of the same shape as `first`,
        or to be the same for all."""
        target = self.tensor(first)
        axis = self.carried(target)
        for name in names:
            tensor = self.tensor(name)
            if self.is_constant(tensor):
                self.require_free(tensor)
            elif tensor.shape != target.shape or self.carried(tensor) != axis:
                raise Unfit(f"{tensor.buffer.name} carries them otherwise")

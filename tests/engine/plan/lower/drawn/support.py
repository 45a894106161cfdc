"""The table of drawn models, one entry per lowering, and what their parts are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from tests.engine.plan.lower.example import Array, Example, Input, Sizes

Draw = Callable[..., Any]
Shape = tuple[int | str, ...]
DRAWN: Final[dict[str, Callable[[Draw, str], Example]]] = {}
"""By the registry's keys: functions that draw a model of that operator."""

LENGTHS: Final = st.sampled_from([1, 2, 3, 5, 7, 8, 16, 17, 33])
"""Lengths of the axes that are not open: vectors' ends, and one more."""

FLOATS: Final = ("float32", "float64", "float16")
SIGNED: Final = ("int8", "int16", "int32", "int64")
UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")
INTEGERS: Final = SIGNED + UNSIGNED
ANY: Final = (*FLOATS, *INTEGERS, "bool")


def draws(*keys: str) -> Callable[[Callable[[Draw, str], Example]], Callable[[Draw, str], Example]]:
    """Register a function that draws models of these operators."""

    def add(function: Callable[[Draw, str], Example]) -> Callable[[Draw, str], Example]:
        for key in keys:
            assert key not in DRAWN, f"{key} is drawn twice"
            DRAWN[key] = function
        return function

    return add


@st.composite
def examples(draw: Draw, key: str) -> Example:
    """Models of the operator `key`."""
    return DRAWN[key](draw, key)


@st.composite
def sizes(draw: Draw, example: Example) -> Sizes:
    """Sizes of the open axes, empty ones and ones of 1 among them."""
    found = {}
    for axis in ("n", "w"):
        chosen = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 19, 40]))
        if chosen or axis not in example.zero:
            chosen = max(chosen, example.least.get(axis, 1))
        found[axis] = chosen
    return found


def pick(draw: Draw, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def flag(draw: Draw) -> bool:
    return bool(draw(st.booleans()))


def number(draw: Draw, low: int, high: int) -> int:
    return int(draw(st.integers(low, high)))


def shape(draw: Draw, low: int = 1, high: int = 4) -> Shape:
    """Axes of a tensor of rows; one of the others is open too."""
    rank = number(draw, low, high)
    found: list[int | str] = [draw(LENGTHS) for _ in range(rank)]
    if rank:
        found[0] = "n"
    if rank > 1:
        found[number(draw, 1, rank - 1)] = "w"
    return tuple(found)


def broadcast(draw: Draw, full: Shape) -> Shape:
    """A shape that broadcasts to `full`: its last axes, some of them 1."""
    kept = full[number(draw, 0, len(full)) :]
    return tuple(1 if flag(draw) else axis for axis in kept)


def axis_of(draw: Draw, axes: Sequence[Any], first: int = 0) -> tuple[int, int]:
    """An axis from `first` on, counted from the front, and as a model may give it."""
    axis = number(draw, first, len(axes) - 1)
    return axis, axis - len(axes) if flag(draw) else axis


def tensor(dtype: str, *axes: int | str, scale: float = 2, low: int = -9, high: int = 9) -> Input:
    """Normal numbers, integers from `low` to `high` (0 where there is no sign), or truth values."""
    kind = np.dtype(dtype)

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        if kind.kind == "b":
            return rng.random(lengths) < 0.5
        if kind.kind == "f":
            return (rng.standard_normal(lengths) * scale).astype(kind)
        return rng.integers(max(low, 0) if kind.kind == "u" else low, high + 1, lengths).astype(
            kind
        )

    return Input(axes, values)


def indices(dtype: str, *axes: int | str, size: int | str) -> Input:
    """Indices into an axis of `size`, half of them counted from its end."""

    def values(rng: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> Array:
        top = sizes[size] if isinstance(size, str) else size
        chosen = rng.integers(0, max(top, 1), lengths)
        return (chosen - top * (rng.random(lengths) < 0.5)).astype(dtype)

    return Input(axes, values)

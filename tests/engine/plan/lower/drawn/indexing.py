"""Gathering, scattering, selecting: indices from either end, of any type, along any axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.engine.plan.lower.drawn.support import (
    ANY,
    LENGTHS,
    Draw,
    axis_of,
    draws,
    flag,
    indices,
    number,
    pick,
    shape,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one

INDEX = ("int32", "int64")


@draws("Gather")
def gathered(draw: Draw, op: str) -> Example:
    """Rows of the data, or rows of indices into a table."""
    dtype, index = pick(draw, *ANY), pick(draw, *INDEX)
    if flag(draw):
        table = (draw(LENGTHS), *draw(st.lists(LENGTHS, max_size=2)))
        inputs = {
            "x": tensor(dtype, *table),
            "i": indices(index, *shape(draw, 1, 3), size=table[0]),
        }
        return one(op, inputs, axis=0)
    axes = shape(draw, 2, 4)
    axis, given = axis_of(draw, axes, 1)
    taken = draw(st.lists(LENGTHS, max_size=2))
    chosen = indices(index, *taken, size=axes[axis])
    zero = ("n",) if axes[axis] == "w" else ("n", "w")
    return one(op, {"x": tensor(dtype, *axes), "i": chosen}, axis=given, zero=zero)


@draws("GatherElements")
def gathered_elements(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    taken = (*axes[:axis], draw(LENGTHS), *axes[axis + 1 :])
    inputs = {"x": tensor(dtype, *axes), "i": indices(pick(draw, *INDEX), *taken, size=axes[axis])}
    zero = tuple(name for name in ("n", "w") if name != axes[axis])
    return one(op, inputs, axis=given, rows=axis > 0, zero=zero)


def tuples(*axes: int | str, limits: tuple[int, ...]) -> Input:
    """Index tuples into axes of these lengths, from either end."""

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.integers([-n for n in limits], limits, (*lengths[:-1], len(limits)))

    return Input((*axes, len(limits)), values)


@draws("GatherND")
def gathered_tuples(draw: Draw, op: str) -> Example:
    dtype, limits = pick(draw, *ANY), tuple(draw(st.lists(LENGTHS, min_size=1, max_size=3)))
    rest = draw(st.lists(LENGTHS, max_size=2))
    batch = number(draw, 0, 2)
    lead = ("n", "w")[:batch]
    middle = tuple(draw(st.lists(LENGTHS, max_size=1)))
    front = (*lead, *middle) if batch else ("n", *middle)
    inputs = {"x": tensor(dtype, *lead, *limits, *rest), "i": tuples(*front, limits=limits)}
    return one(op, inputs, batch_dims=batch)


def places(*axes: int | str, axis: int, size: int) -> Input:
    """Different indices along an axis, as many as it has, from either end."""

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        moved = (*lengths[:axis], *lengths[axis + 1 :], lengths[axis])
        order = rng.random((*moved[:-1], size)).argsort(-1)[..., : moved[-1]]
        chosen = np.moveaxis(order, -1, axis)
        return chosen - size * (rng.random(lengths) < 0.5)

    return Input(axes, values)


@draws("ScatterElements")
def scattered_elements(draw: Draw, op: str) -> Example:
    dtype = pick(draw, "float32", "float64", "int32", "int64")
    axes = list(shape(draw, 1, 4))
    axis, given = axis_of(draw, axes)
    size = axes[axis] = draw(LENGTHS)
    taken = list(axes)
    taken[axis] = number(draw, 1, size)
    reduction = pick(draw, "none", "add", "mul", "min", "max")
    chosen = places(*taken, axis=axis, size=size)
    if reduction != "none":
        chosen = indices("int64", *taken, size=size)
    if flag(draw):
        drawn = chosen.draw
        chosen = replace(chosen, draw=lambda *given: drawn(*given).astype(np.int32))
    inputs = {"x": tensor(dtype, *axes), "i": chosen, "u": tensor(dtype, *taken, scale=1, high=2)}
    return one(op, inputs, axis=given, rows=axis > 0, reduction=reduction)


@draws("Scatter")
def old_scatter(draw: Draw, op: str) -> Example:
    found = scattered_elements(draw, "ScatterElements")
    node = found.nodes[0]
    axis = next(a.i for a in node.attribute if a.name == "axis")
    axes = found.inputs["i"].shape
    sizes = found.inputs["x"].shape
    size = sizes[axis]
    assert isinstance(size, int)
    inputs = found.inputs | {"i": places(*axes, axis=axis % len(axes), size=size)}
    inputs["i"] = replace(inputs["i"], draw=_from_the_front(inputs["i"], size))
    return one(op, inputs, axis=axis % len(axes), rows=found.rows, opset=10)


def _from_the_front(source: Input, size: int) -> Any:
    return lambda *given: source.draw(*given) % size


@draws("ScatterND")
def scattered_tuples(draw: Draw, op: str) -> Example:
    dtype = pick(draw, "float32", "float64", "int32", "int64")
    limits = tuple(draw(st.lists(st.sampled_from([2, 3, 8]), min_size=1, max_size=3)))
    rest = draw(st.lists(LENGTHS, max_size=2))
    reduction = pick(draw, "none", "add", "mul", "min", "max")
    if reduction != "none":
        chosen = tuples("w", limits=limits)
        updates: tuple[int | str, ...] = ("w", *rest)
    else:
        count = number(draw, 1, int(np.prod(limits)))

        def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
            flat = rng.permutation(int(np.prod(limits)))[: lengths[0]]
            return np.stack(np.unravel_index(flat, limits), -1).astype(np.int64)

        chosen, updates = Input((count, len(limits)), values), (count, *rest)
    inputs = {"x": tensor(dtype, *limits, *rest), "i": chosen}
    inputs["u"] = tensor(dtype, *updates, scale=1, high=2)
    return one(op, inputs, reduction=reduction, rows=False)


@draws("OneHot")
def one_hot(draw: Draw, op: str) -> Example:
    index, dtype = pick(draw, "int32", "int64", "float32"), pick(draw, "float32", "int32", "int64")
    depth, axes = number(draw, 1, 20), shape(draw, 1, 3)
    axis = number(draw, -len(axes), len(axes))

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.integers(-depth - 2, depth + 2, lengths).astype(index)

    constants = {"depth": np.array(depth, pick(draw, np.int64, np.int32))}
    constants["values"] = np.array([-1, 3], dtype)
    rows = axis % (len(axes) + 1) > 0
    return one(op, {"i": Input(axes, values)}, constants=constants, axis=axis, rows=rows)


@draws("ArgMax", "ArgMin")
def arguments(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, "float32", "float64", "int32", "int8", "uint8"), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    flags = {"keepdims": number(draw, 0, 1), "select_last_index": number(draw, 0, 1)}
    zero = tuple(name for name in ("n", "w") if name != axes[axis])
    return one(op, {"x": tensor(dtype, *axes)}, axis=given, rows=axis > 0, zero=zero, **flags)


@draws("TopK")
def largest(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, "float32", "float64", "int32", "int64"), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    length = axes[axis]
    kept = number(draw, 0, length) if isinstance(length, int) else number(draw, 0, 3)
    # Equal elements come by their index; so integers are drawn with many.
    attributes = {"largest": number(draw, 0, 1), "axis": given}
    return one(
        op,
        {"x": tensor(dtype, *axes)},
        constants={"k": ints(kept)},
        outputs=("y", "z"),
        rows=axis > 0,
        zero=tuple(name for name in ("n", "w") if name != length),
        least={name: 3 for name in ("n", "w") if name == length},
        **attributes,
    )

"""Grids of coordinates."""

from __future__ import annotations

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, shape_of
from engine.graph.ir import Value
from engine.graph.standard.registry import expands


@expands("AffineGrid")
def affine_grid(b: Body) -> bool:
    """``grid[n, ..., h, w] = theta[n] @ [x(w), y(h), ..., 1]``, a sum over the columns of theta.

    Of d positions, number i lies at ``(2i + 1) / d - 1``, or with aligned corners at
    ``2i / (d - 1) - 1``.
    """
    theta, size = b.input(0), b.input(1)
    dtype = dtype_of(theta)
    lengths = shape_of(size)
    if dtype.name not in ("float32", "float64") or not lengths or not lengths[0].is_constant:
        raise Unsupported(f"its matrices are {dtype}, or the number of axes is not known")
    spatial = lengths[0].value - 2
    if spatial not in (2, 3):
        raise Unsupported(f"it has {spatial} spatial axes")

    def column(index: int) -> Value:
        """A column of every theta [N, spatial], with axes of 1 for the positions."""
        chosen = b("Gather", theta, b.constant(np.array(index, np.int64)), axis=2)
        return b("Unsqueeze", chosen, b.ints(*range(1, spatial + 1)))

    total = column(spatial)
    for place in range(spatial):
        # Coordinates are listed from the last axis, positions from the first.
        axis = spatial - 1 - place
        at = _positions(b, size, axis, dtype)
        at = b("Unsqueeze", at, b.ints(*range(1, spatial - axis + 1)))
        total = b("Add", total, b("Mul", at, column(place)))
    b.give(0, total)
    return True


def _positions(b: Body, size: Value, axis: int, dtype: np.dtype[np.generic]) -> Value:
    """Coordinates along a spatial axis, a vector."""
    length = b("Gather", size, b.constant(np.array(axis + 2, np.int64)), axis=0)
    zero, one = (b.constant(np.array(number, np.int64)) for number in (0, 1))
    steps = b.cast(b("Range", zero, length, one), dtype)
    if b.attribute("align_corners", 0):
        last = b("Max", b("Sub", length, one), one)
        at = b("Div", b("Mul", steps, b.like(2, steps)), b.cast(last, dtype))
    else:
        odd = b("Add", b("Mul", steps, b.like(2, steps)), b.like(1, steps))
        at = b("Div", odd, b.cast(length, dtype))
    return b("Sub", at, b.like(1, at))

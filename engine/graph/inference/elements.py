"""Known elements of small tensors: what shape arithmetic computes, carried as dim expressions.

Elements live in numpy object arrays of the tensor's shape, so that data movement is numpy's own.
An element is None where it is unknown, a `Dim` in integer and boolean tensors (booleans are 0 and
1), and a `Real` in float tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from engine.graph.dims import Dim, ceildiv, scaled_floor
from engine.graph.ir import AnyArray

MAX_ELEMENTS: Final = 64
"""Larger tensors are data, not shapes."""

Elements: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Real:
    """The float ``dim / divisor * scale``, of which at most one factor is not 1.

    Sizes below 2**24 are exact in float32, and so is the floor of their quotient by an integer:
    a quotient that is no integer is at least 1/divisor away from the next one.
    """

    dim: Dim
    divisor: int = 1
    scale: float = 1.0

    @staticmethod
    def of(number: float) -> Real | None:
        """A constant; None where it is not finite."""
        number = float(number)
        if not math.isfinite(number):
            return None
        if number == int(number):
            return Real(Dim.of(int(number)))
        return Real(Dim.of(1), scale=number)

    @property
    def constant(self) -> float | None:
        """Value of a constant."""
        return self.dim.value / self.divisor * self.scale if self.dim.is_constant else None

    @property
    def whole(self) -> bool:
        """Whether the value is an integer expression."""
        return self.divisor == 1 and self.scale == 1.0

    def floor(self) -> Dim:
        """Largest integer not above the value."""
        if self.scale != 1.0:
            if self.dim.is_constant:
                return Dim.of(math.floor(self.dim.value * self.scale))
            return scaled_floor(self.dim, self.scale)
        return self.dim // self.divisor

    def ceil(self) -> Dim | None:
        """Smallest integer not below the value, None where no expression gives it."""
        if self.dim.is_constant:
            return Dim.of(math.ceil(self.dim.value / self.divisor * self.scale))
        return ceildiv(self.dim, self.divisor) if self.scale == 1.0 else None


def from_data(data: AnyArray) -> Elements | None:
    """Elements of a constant; None where it is large or no shape arithmetic uses its type."""
    if data.size > MAX_ELEMENTS:
        return None
    if data.dtype.kind in "iub":
        make: Callable[[Any], Any] = Dim.of
    elif data.dtype.kind == "f" or data.dtype == bfloat16:
        make = Real.of
    else:
        return None
    elements = np.empty(data.shape, object)
    flat = elements.reshape(-1)
    for index, item in enumerate(data.reshape(-1).tolist()):
        flat[index] = make(int(item) if data.dtype.kind == "b" else item)
    return elements


def vector(items: Any) -> Elements:
    """Rank-1 elements from a sequence."""
    items = list(items)
    elements = np.empty(len(items), object)
    for index, item in enumerate(items):
        elements[index] = item
    return elements


def scalar(item: Any) -> Elements:
    """Rank-0 elements."""
    elements = np.empty((), object)
    elements[()] = item
    return elements


def combine(function: Callable[..., Any], *operands: Elements) -> Elements:
    """Apply `function` element by element with broadcasting; None where an operand is unknown."""
    arrays = np.broadcast_arrays(*operands)
    result = np.empty(arrays[0].shape, object)
    flat = result.reshape(-1)
    columns = [array.reshape(-1) for array in arrays]
    for index, items in enumerate(zip(*columns, strict=True)):
        flat[index] = None if any(item is None for item in items) else function(*items)
    return result

"""Physical tensors: where the elements of a value lie.

A `Tensor` is a strided window into a `Buffer`; shapes, strides and offsets are dim expressions, so
a tensor is planned once for every shape. Which bytes of the arena a buffer gets is decided at bind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

import numpy as np

from engine.graph.dims import Dim
from engine.plan.packing import Origin


class Space(Enum):
    """Which base pointer a buffer hangs on."""

    ARENA = "arena"
    WEIGHTS = "weights"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(eq=False)
class Buffer:
    """Memory of `size` bytes in a space.

    `index` counts inputs, outputs and weights; for the arena it is the buffer's number, whose
    offset binding decides. `data` holds the content of a weight, `origin` what packed it if it was
    packed, `origin_start` the byte of the packed array with which it begins.
    """

    space: Space
    index: int
    size: Dim
    name: str
    data: np.ndarray[Any, Any] | None = None
    origin: Origin | None = None
    origin_start: int = 0


ONE: Final = Dim.of(1)
ZERO: Final = Dim.of(0)


def product(dims: Sequence[Dim]) -> Dim:
    """Product of dims; 1 for none."""
    result = ONE
    for dim in dims:
        result = result * dim
    return result


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides, in elements, of a contiguous tensor."""
    strides: list[Dim] = []
    stride = ONE
    for dim in reversed(shape):
        strides.append(stride)
        stride = stride * dim
    return tuple(reversed(strides))


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided window: `strides` and `offset` count elements.

    `halo` gives, per axis, how many zero elements surround the window on either side; kernels may
    read them, so that borders of a convolution are no special case.
    """

    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    buffer: Buffer
    offset: Dim = ZERO
    halo: tuple[tuple[int, int], ...] = field(default=())

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    @property
    def is_contiguous(self) -> bool:
        """Whether the window is dense and row-major (axes of length 1 may have any stride)."""
        expected = row_major(self.shape)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(dim == ONE or stride == dense for dim, stride, dense in pairs)

    def view(self, shape: Sequence[Dim]) -> Tensor:
        """The same contiguous elements under another shape."""
        assert self.is_contiguous, f"{self.buffer.name} is not contiguous"
        return replace(self, shape=tuple(shape), strides=row_major(shape), halo=())

    def permute(self, axes: Sequence[int]) -> Tensor:
        """The same elements with axes reordered."""
        return replace(
            self,
            shape=tuple(self.shape[a] for a in axes),
            strides=tuple(self.strides[a] for a in axes),
            halo=tuple(self.halo[a] for a in axes) if self.halo else (),
        )

    def window(self, axis: int, start: Dim, length: Dim, step: int = 1) -> Tensor:
        """Every `step`-th of `length` elements along `axis` from `start`."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = length
        strides[axis] = self.strides[axis] * step
        offset = self.offset + self.strides[axis] * start
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset, halo=())

    def rows(self) -> tuple[tuple[Dim, Dim], ...]:
        """Axes merged wherever they lie densely together, as (length, stride), outermost first.

        A contiguous tensor gives one axis; an NHWC tensor with a halo gives (N, H, W*C).
        """
        merged: list[tuple[Dim, Dim]] = []
        for dim, stride in zip(self.shape, self.strides, strict=True):
            if dim == ONE:
                continue
            if merged and merged[-1][1] == stride * dim:
                merged[-1] = (merged[-1][0] * dim, stride)
            else:
                merged.append((dim, stride))
        return tuple(merged) or ((ONE, ONE),)

"""Packed weights: B of the dot kernel in panels.

The format is independent of the kernel that reads it: columns are cut into panels of ``vectors``
vectors, and a panel holds, for each step of K in the kernel's order (k3, k2, k1), its columns side
by side: shape [panels, K, width], zero-padded to whole panels. Packing happens at load, once per
weight; `packs_total` counts it.

A weight update plans the model again. `reusing` then lets packing functions look up by a digest of
their arguments what the session's memory holds already, so that only what changed is packed;
`learning` fills that table, by a plan of the old weights in which nothing is packed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec

import numpy as np
from ml_dtypes import bfloat16

from engine.codegen.target import Target
from engine.runtime.memory import address

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


class Counter:
    """Packs done in this process; the promise is one per weight and update."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self) -> None:
        """Count one pack."""
        with self._lock:
            self.total += 1


packs_total = Counter()


@dataclass(frozen=True)
class Origin:
    """Where packed bytes come from: a digest of the packing's arguments, whether they were packed
    now, and the address and size of the whole packed array."""

    key: bytes
    fresh: bool
    start: int
    size: int


class Packed(np.ndarray[Any, np.dtype[np.float32]]):
    """An array made by packing; views of it know their origin."""

    origin: Origin | None

    def __array_finalize__(self, obj: Any) -> None:
        self.origin = getattr(obj, "origin", None)


Pieces = dict[bytes, list[tuple[int, int, int]]]
"""Where packed bytes lie in a session's memory, by key: (start in the packed array, bytes, offset
in the memory)."""


@dataclass(frozen=True)
class Known:
    """A session's memory, and what lies packed in it."""

    memory: np.ndarray[Any, np.dtype[np.uint8]]
    pieces: Pieces

    def fill(self, key: bytes, target: np.ndarray[Any, Any]) -> bool:
        """Copy a packed array from the memory; False where not all of it is there."""
        flat = target.reshape(-1).view(np.uint8)
        filled = 0
        for start, size, offset in sorted(self.pieces.get(key, ())):
            if start > filled:
                return False
            flat[start : start + size] = self.memory[offset : offset + size]
            filled = max(filled, start + size)
        return filled == flat.size


class _Mode(threading.local):
    """What packing does in this thread: pack, learn keys only, or reuse what is known."""

    learn = False
    known: Known | None = None


_mode = _Mode()


@contextmanager
def learning() -> Iterator[None]:
    """Let packing functions of this thread return arrays of the right shape, with no content."""
    _mode.learn = True
    try:
        yield
    finally:
        _mode.learn = False


@contextmanager
def reusing(known: Known) -> Iterator[None]:
    """Let packing functions of this thread take from `known` what was packed before."""
    _mode.known = known
    try:
        yield
    finally:
        _mode.known = None


_P = ParamSpec("_P")


def packing(
    shape: Callable[_P, tuple[int, ...]],
) -> Callable[[Callable[_P, FloatArray]], Callable[_P, FloatArray]]:
    """Declare a packing function; ``shape`` tells the shape of its result from its arguments."""

    def declare(function: Callable[_P, FloatArray]) -> Callable[_P, FloatArray]:
        @wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> FloatArray:
            key, fresh = b"", True
            if _mode.learn or _mode.known is not None:
                key = _digest(function.__name__, (*args, *kwargs.values()))
                packed: FloatArray = np.empty(shape(*args, **kwargs), np.float32)
                fresh = not _mode.learn
                if _mode.known is not None and _mode.known.fill(key, packed):
                    fresh = False
            if fresh:
                packed = np.ascontiguousarray(function(*args, **kwargs))
                packs_total.add()
            marked = packed.view(Packed)
            marked.origin = Origin(key, fresh, address(packed), packed.nbytes)
            return marked

        return run

    return declare


def _digest(name: str, arguments: tuple[Any, ...]) -> bytes:
    digest = hashlib.blake2b(name.encode(), digest_size=32)
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            digest.update(f"{argument.dtype}{argument.shape}".encode())
            digest.update(np.ascontiguousarray(argument).reshape(-1).view(np.uint8).data)
        else:
            digest.update(repr(argument).encode())
    return digest.digest()


_NEAR: Final = 64 << 10
"""Bytes of a matrix that hardly has to be brought: twice a first-level cache, whose half serves."""


def panel_vectors(columns: int, target: Target, depth: int | None = None) -> int:
    """Panel width, in vectors, for a matrix of `columns` columns, and `depth` rows where these are
    multiplied with rows that a request brings, perhaps one at a time.

    Estimated cycles per row and step of K: a panel costs its multiply-adds at two a cycle, but
    never less than its loads (its vectors, and one broadcast per row shared by the panel's
    vectors), and beyond that bringing its vectors from the second-level cache, once per tile. Tall
    tiles bring them for more rows; narrow panels waste fewer columns. The weight of bringing
    follows from 96 rows and a depth of 768, both in the second-level cache: on a Xeon of the
    Cascade Lake generation 12x2 tiles reach 0.97 of the peak there, 8x3 0.96 and 6x4 0.93.

    A single row has as many sums under way as its panel has vectors, and a multiply-add takes four
    cycles. So a small matrix, for which little is to be gained from tall tiles, has wide panels:
    the four layers of an MLP of 128 units take 3.0 µs with four vectors and 3.9 µs with two.
    """
    near = depth is not None and depth * columns * 4 <= _NEAR
    bringing, tile = (0.05, 0.05) if near else (0.2, 0.02)

    def cost(vectors: int) -> float:
        rows = target.tile_rows(vectors)
        panels = -(-columns // (vectors * target.lanes()))
        arithmetic = vectors / 2
        loads = (vectors / rows + 1) / 2
        return panels * (max(arithmetic, loads) + bringing * vectors / rows + tile)

    return min(target.panel_vectors, key=lambda v: (cost(v), -v))


def _packed_shape(matrices: np.ndarray[Any, Any], width: int) -> tuple[int, ...]:
    batch, depth, columns = matrices.shape
    return batch, max(1, -(-columns // width)), depth, width


@packing(_packed_shape)
def pack(matrices: np.ndarray[Any, Any], width: int) -> FloatArray:
    """Panels of B, of shape [batch, ceil(N / width), K, width]; see `panels_of`."""
    return panels_of(matrices, width)


def panels_of(matrices: np.ndarray[Any, Any], width: int) -> FloatArray:
    """What `pack` computes, for packing functions that prepare its argument.

    `matrices` has shape [batch, K, N], any strides; the result is float32, zero in the padding.
    """
    batch, depth, columns = matrices.shape
    packed = np.zeros(_packed_shape(matrices, width), np.float32)
    whole = columns // width
    if whole:
        body = matrices[:, :, : whole * width].reshape(batch, depth, whole, width)
        packed[:, :whole] = body.transpose(0, 2, 1, 3)
    rest = columns - whole * width
    if rest:
        packed[:, whole, :, :rest] = matrices[:, :, whole * width :]
    return packed


def pairs_of(length: int, step: int) -> int:
    """Pairs that `length` steps of K take where every `step` of them end with a whole pair."""
    return length // step * -(-step // 2) + -(-(length % step) // 2) if step else 0


def _pairs_shape(matrices: np.ndarray[Any, Any], width: int, step: int) -> tuple[int, ...]:
    batch, depth, columns = matrices.shape
    return batch, max(1, -(-columns // width)), pairs_of(depth, step), width


@packing(_pairs_shape)
def pack_pairs(matrices: np.ndarray[Any, Any], width: int, step: int) -> FloatArray:
    """Panels of pairs of bf16 numbers, of shape [batch, ceil(N / width), pairs, width].

    Of K, each `step` elements are filled up to whole pairs with a zero. A pair lies where a float32
    would, its first number in the lower half. Denormal numbers become zeros, which is what they
    count as where pairs are multiplied.
    """
    batch, depth, columns = matrices.shape
    bits = np.asarray(matrices, np.float32).astype(bfloat16).view(np.uint16)
    bits = np.where(bits & 0x7F80 == 0, bits & 0x8000, bits)
    words = np.zeros((batch, 2 * pairs_of(depth, step), columns), np.uint16)
    whole = depth // step if step else 0
    padded = 2 * -(-step // 2)
    body = words[:, : whole * padded].reshape(batch, whole, padded, columns)
    body[:, :, :step] = bits[:, : whole * step].reshape(batch, whole, step, columns)
    words[:, : whole * padded] = body.reshape(batch, whole * padded, columns)
    words[:, whole * padded : whole * padded + depth - whole * step] = bits[:, whole * step :]
    lower, upper = words[:, 0::2].astype(np.uint32), words[:, 1::2].astype(np.uint32)
    return panels_of((lower | upper << np.uint32(16)).view(np.float32), width)


def pad_columns(values: np.ndarray[Any, Any], width: int) -> FloatArray:
    """Per-column values [batch, N] padded with zeros to whole panels: [batch, panels * width]."""
    batch, columns = values.shape
    panels = max(1, -(-columns // width))
    padded = np.zeros((batch, panels * width), np.float32)
    padded[:, :columns] = values
    return padded

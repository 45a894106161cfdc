"""Packed weights: B of the dot kernel in panels.

The format is independent of the kernel that reads it: columns are cut into panels of ``vectors``
vectors, and a panel holds, for each step of K in the kernel's order (k3, k2, k1), its columns side
by side: shape [panels, K, width], zero-padded to whole panels. Packing happens at load, once per
weight; `packs_total` counts it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from engine.codegen.target import Target

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


class Counter:
    """Packs done in this process, by weight name; the promise is one per update."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def add(self) -> None:
        """Count one pack."""
        with self._lock:
            self.total += 1


packs_total = Counter()


def panel_vectors(columns: int, target: Target) -> int:
    """Panel width, in vectors, for a matrix of `columns` columns.

    Estimated cost per row and step of K: a panel costs its multiply-adds at two a cycle, but never
    less than its loads (its vectors, and one broadcast per row shared by the panel's vectors).
    Wide panels reuse each broadcast more, narrow ones waste fewer columns.
    """

    def cost(vectors: int) -> float:
        rows = target.tile_rows(vectors)
        panels = -(-columns // (vectors * target.lanes()))
        arithmetic = vectors / 2
        loads = (vectors / rows + 1) / 2
        return panels * (max(arithmetic, loads) + 0.05 * (vectors / rows + 1))

    return min(target.panel_vectors, key=lambda v: (cost(v), -v))


def pack(matrices: np.ndarray[Any, Any], width: int) -> FloatArray:
    """Panels of B.

    `matrices` has shape [batch, K, N], any strides; the result has shape
    [batch, ceil(N / width), K, width], float32, zero in the padding.
    """
    batch, depth, columns = matrices.shape
    panels = max(1, -(-columns // width))
    packed = np.zeros((batch, panels, depth, width), np.float32)
    whole = columns // width
    if whole:
        body = matrices[:, :, : whole * width].reshape(batch, depth, whole, width)
        packed[:, :whole] = body.transpose(0, 2, 1, 3)
    rest = columns - whole * width
    if rest:
        packed[:, whole, :, :rest] = matrices[:, :, whole * width :]
    packs_total.add()
    return packed


def pad_columns(values: np.ndarray[Any, Any], width: int) -> FloatArray:
    """Per-column values [batch, N] padded with zeros to whole panels: [batch, panels * width]."""
    batch, columns = values.shape
    panels = max(1, -(-columns // width))
    padded = np.zeros((batch, panels * width), np.float32)
    padded[:, :columns] = values
    return padded

"""Packing of recurrent layers' weights, once at load, to the formats of `engine.kernels.recurrent`.

ONNX keeps weights as [directions, gates * hidden, depth]. Hidden columns are zero-padded to whole
vectors of `lanes` and cut into panels; a panel holds all gates of its columns side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels.recurrent_tiles import together
from engine.plan.packing import packing

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


def padded(hidden: int, lanes: int) -> int:
    """Hidden columns in whole vectors."""
    return -(-hidden // lanes) * lanes


def columns(values: FloatArray, gates: int, lanes: int) -> FloatArray:
    """[directions, gates * hidden, ...] to [directions, panels, gates, lanes, ...]."""
    directions, rows = values.shape[:2]
    hidden = rows // gates
    rest = values.shape[2:]
    width = padded(hidden, lanes)
    wide = np.zeros((directions, gates, width, *rest), np.float32)
    wide[:, :, :hidden] = values.reshape(directions, gates, hidden, *rest)
    return wide.reshape(directions, gates, width // lanes, lanes, *rest).swapaxes(1, 2)


def pack_projection(weights: FloatArray, gates: int, lanes: int) -> FloatArray:
    """Matrix [inputs, directions * panels * gates * lanes] that projects all directions at once."""
    inputs = weights.shape[2]
    return np.ascontiguousarray(columns(weights, gates, lanes).reshape(-1, inputs).T)


def _panels_shape(weights: FloatArray, gates: int, lanes: int) -> tuple[int, ...]:
    directions, _, hidden = weights.shape
    width = padded(hidden, lanes)
    side = together(gates)
    return directions, width // lanes, gates // side, width, side, lanes


@packing(_panels_shape)
def pack_recurrent(weights: FloatArray, gates: int, lanes: int) -> FloatArray:
    """[directions, gates * hidden, hidden] to [directions, panels, parts, padded, gates, lanes].

    The gates of a part are those that lie `together`.
    """
    directions, count, parts, width, side, _ = _panels_shape(weights, gates, lanes)
    panels = np.zeros((directions, count, parts, side, lanes, width), np.float32)
    found = columns(weights, gates, lanes)
    panels[..., : weights.shape[2]] = found.reshape(*panels.shape[:5], -1)
    return np.ascontiguousarray(panels.transpose(0, 1, 2, 5, 3, 4))


def pad_gates(values: FloatArray, gates: int, lanes: int) -> FloatArray:
    """[directions, gates * hidden] to [directions, gates, padded]."""
    directions, rows = values.shape
    hidden = rows // gates
    wide = np.zeros((directions, gates, padded(hidden, lanes)), np.float32)
    wide[:, :, :hidden] = values.reshape(directions, gates, hidden)
    return wide

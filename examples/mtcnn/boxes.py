"""Boxes around faces: [n, 4] of left, top, right, bottom, in pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
Indices = NDArray[np.int64]

_AT_A_TIME = 256
"""Boxes whose overlaps with all weaker ones are computed together."""


def overlaps(some: Boxes, others: Boxes, *, of_smaller: bool = False) -> NDArray[np.float64]:
    """Intersection of every box [m, 4] with every other [n, 4] as [m, n].

    It is given over the area of the union, or of the smaller of the two.
    """
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    edges = np.maximum(high - low, 0)
    inside = edges[..., 0] * edges[..., 1]
    first, second = areas(some)[:, None], areas(others)[None]
    whole = np.minimum(first, second) if of_smaller else first + second - inside
    result: NDArray[np.float64] = inside / whole
    return result


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """Width times height."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    result: NDArray[np.float64] = sizes[:, 0] * sizes[:, 1]
    return result


def suppressed(
    boxes: Boxes, scores: NDArray[Any], limit: float, *, of_smaller: bool = False
) -> Indices:
    """Indices of the boxes that stay when weaker ones overlapping by more than `limit` go.

    The strongest comes first. Greedy non-maximum suppression.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        front, order = order[:_AT_A_TIME], order[_AT_A_TIME:]
        among = overlaps(boxes[front], boxes[front], of_smaller=of_smaller) > limit
        stays = np.ones(len(front), bool)
        for index in range(len(front)):
            if stays[index]:
                kept.append(int(front[index]))
                stays[index + 1 :] &= ~among[index, index + 1 :]
        if len(order):
            strong = boxes[front[stays]]
            order = order[
                ~(overlaps(strong, boxes[order], of_smaller=of_smaller) > limit).any(axis=0)
            ]
    return np.array(kept, np.int64)


def refined(boxes: Boxes, shifts: NDArray[Any]) -> Boxes:
    """Boxes with their edges moved by `shifts` [n, 4], in units of their size."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    result: Boxes = boxes + shifts * np.tile(sizes, 2)
    return result


def squares(boxes: Boxes) -> Boxes:
    """The smallest squares around the boxes, about the same centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centres - half, centres + half], axis=1)

"""Boxes: suppression against the plain greedy algorithm."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.mtcnn import boxes as b


def plain(boxes: np.ndarray, scores: np.ndarray, limit: float, smaller: bool) -> list[int]:
    """One box at a time, strongest first."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        box = boxes[index]
        for other in kept:
            low = np.maximum(box[:2], boxes[other][:2])
            high = np.minimum(box[2:], boxes[other][2:])
            inside = np.prod(np.maximum(high - low, 0))
            first, second = np.prod(box[2:] - box[:2]), np.prod(boxes[other][2:] - boxes[other][:2])
            whole = min(first, second) if smaller else first + second - inside
            if inside / whole > limit:
                break
        else:
            kept.append(index)
    return kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.integers(0, 2**31), st.sampled_from([0.3, 0.7]), st.booleans())
def test_suppression_is_greedy(count: int, seed: int, limit: float, smaller: bool) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1)
    scores = rng.integers(0, 50, count) / 50
    kept = b.suppressed(boxes, scores, limit, of_smaller=smaller)
    assert kept.tolist() == plain(boxes, scores, limit, smaller)


def test_squares_keep_centre_and_larger_side() -> None:
    (square,) = b.squares(np.array([[10.0, 20.0, 30.0, 80.0]]))
    assert square.tolist() == [-10.0, 20.0, 50.0, 80.0]
    (moved,) = b.refined(np.array([[10.0, 20.0, 30.0, 80.0]]), np.array([[0.5, 0, 0, -0.5]]))
    assert moved.tolist() == [20.0, 20.0, 30.0, 50.0]

"""Requests of different lengths as flat tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.description import TensorDescription
from cluster.ragged import RaggedAxes, flatten, known_shapes, sizes_of, split

AXES = RaggedAxes("N", "T")
TENSORS = (
    TensorDescription("x", np.dtype(np.float32), ("N", "T", 3)),
    TensorDescription("mean", np.dtype(np.float64), ("N", 4)),
    TensorDescription("scores", np.dtype(np.int8), ("N", "T", "T")),
)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), min_size=1, max_size=6))
def test_there_and_back(sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    parts = [
        {
            "x": rng.standard_normal((n, t, 3)).astype(np.float32),
            "mean": rng.standard_normal((n, 4)),
            "scores": rng.integers(0, 9, (n, t, t), np.int8),
        }
        for n, t in sizes
    ]
    assert [sizes_of(AXES, TENSORS, part) for part in parts] == sizes
    for part, found in zip(parts, split(AXES, TENSORS, flatten(parts), sizes), strict=True):
        for name, array in part.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("count", [8, 10])
def test_other_numbers_of_elements(count: int) -> None:
    with pytest.raises(ValueError, match=r"'x'|reshape"):
        split(AXES, TENSORS, {"x": np.zeros(count, np.float32)}, [(1, 1), (1, 2)])


def test_shapes_that_sizes_do_not_tell() -> None:
    assert known_shapes(AXES, TENSORS)
    assert not known_shapes(AXES, [TensorDescription("y", np.dtype(np.int8), ("N", "T//2"))])

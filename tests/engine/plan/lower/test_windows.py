"""MaxPool with indices and MaxUnpool against onnxruntime, Col2Im against its definition.

onnxruntime mixes up the channels of Col2Im for images of three axes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.equality import assert_equal
from tests.engine.single import Array, Single

POOLS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "columns": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "storage_order": 1},
    "dilated": {"kernel_shape": [3, 2], "dilations": [2, 1]},
    "same": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "line": {"kernel_shape": [2]},
    "volume": {"kernel_shape": [2, 3, 2], "storage_order": 1},
}


@cache
def pool(form: str, dtype: str) -> Single:
    rank = len(POOLS[form]["kernel_shape"]) + 2
    arrays = {"x": np.zeros((1,) * rank, dtype)}
    return Single("MaxPool", arrays, outputs=("y", "indices"), opset=12, **POOLS[form])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("form", list(POOLS))
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_pool_with_indices(form: str, dtype: str, data: st.DataObject) -> None:
    rank = len(POOLS[form]["kernel_shape"])
    lead = data.draw(st.tuples(st.integers(0, 2), st.integers(1, 3)))
    spatial = data.draw(st.tuples(*[st.integers(5, 8)] * rank))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    # Few different values, so that windows hold equal ones.
    pool(form, dtype).check(x=rng.integers(0, 5, (*lead, *spatial)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_windows_of_the_lowest_number_name_their_first(dtype: str) -> None:
    lowest = -np.inf if dtype == "float32" else 0
    found = pool("line", dtype).run(x=np.full((1, 2, 5), lowest, dtype))
    np.testing.assert_array_equal(found[1], [[[0, 1, 2, 3], [5, 6, 7, 8]]])


def test_unpool() -> None:
    arrays = {"x": np.zeros((1,) * 4, np.float32), "indices": np.zeros((1,) * 4, np.int64)}
    model = Single("MaxUnpool", arrays, opset=11, kernel_shape=[2, 2], strides=[2, 2])
    rng = np.random.default_rng(0)
    for shape in [(2, 3, 3, 4), (1, 1, 1, 1), (0, 1, 2, 2)]:
        size = int(np.prod(shape))
        x = rng.standard_normal(shape).astype(np.float32)
        model.check(x=x, indices=rng.permutation(4 * size)[:size].reshape(shape))


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_blocks_to_image(data: st.DataObject) -> None:
    draw = data.draw
    rank = draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 2)] * rank)
    block, strides, dilations = draw(several), draw(several), draw(several)
    pads = draw(st.tuples(*[st.integers(0, 1)] * (2 * rank)))
    image = draw(st.tuples(*[st.integers(4, 9)] * rank))
    positions = 1
    for axis in range(rank):
        span = dilations[axis] * (block[axis] - 1) + 1
        length = image[axis] + pads[axis] + pads[axis + rank] - span
        positions *= length // strides[axis] + 1
    rng = np.random.default_rng(0)
    shape = (2, 3 * int(np.prod(block)), positions)
    x = rng.standard_normal(shape).astype(np.float32)
    arrays: dict[str, Array] = {"x": x, "image": np.array(image), "block": np.array(block)}
    model = Single(
        "Col2Im",
        arrays,
        constants=["image", "block"],
        symbolic=False,
        opset=18,
        strides=strides,
        pads=pads,
        dilations=dilations,
    )
    expected = folded(x, image, block, strides, pads, dilations)
    assert_equal(model.run(x=x)[0], expected)


def folded(
    x: Array,
    image: tuple[int, ...],
    block: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Array:
    """Every block added where it came from, in a padded image whose frame is cut off."""
    rank = len(image)
    padded = [image[i] + pads[i] + pads[i + rank] for i in range(rank)]
    counts = [
        (padded[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(rank)
    ]
    blocks = x.reshape(len(x), -1, *block, *counts)
    result = np.zeros((*blocks.shape[:2], *padded), np.float32)
    for offset in np.ndindex(*block):
        starts = [o * d for o, d in zip(offset, dilations, strict=True)]
        places = tuple(
            slice(first, first + (count - 1) * step + 1, step)
            for first, count, step in zip(starts, counts, strides, strict=True)
        )
        result[(slice(None), slice(None), *places)] += blocks[(slice(None), slice(None), *offset)]
    inner = tuple(slice(pads[i], pads[i] + image[i]) for i in range(rank))
    return result[(slice(None), slice(None), *inner)]

"""Large copies by several threads are the same as small ones."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.channel.copying import join


@pytest.mark.parametrize("rows", [(1,), (1, 2), (3, 0, 2), (700, 300)])
@pytest.mark.parametrize("width", [3, 300_001])
def test_parts_stand_one_after_the_other(rows: tuple[int, ...], width: int):
    width = min(width, 8_000_000 // sum(rows))
    rng = np.random.default_rng(1)
    parts = [rng.random((n, width), dtype=np.float32) for n in rows]
    slot = np.empty((sum(rows), width), np.float32)
    join(parts, slot)
    np.testing.assert_array_equal(slot, np.concatenate(parts))


def test_strided_parts_and_scalars():
    wide = np.arange(4_000_000, dtype=np.float64).reshape(1000, 4000)
    slot = np.empty((1000, 2000))
    join([wide[:, ::2]], slot)
    np.testing.assert_array_equal(slot, wide[:, ::2])
    scalar = np.empty(())
    join([np.array(2.5)], scalar)
    assert scalar == 2.5


@pytest.mark.parametrize("width", [3, 2_000_000])
def test_parts_that_do_not_fit_are_refused(width: int):
    parts = [np.ones((1, width), np.float32), np.ones((1, width + 1), np.float32)]
    with pytest.raises(ValueError, match="must"):
        join(parts, np.empty((2, width), np.float32))

"""Placing buffers in the arena."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.plan.memory import ALIGNMENT, place

Buffers = list[tuple[int, int, int]]
buffers = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=30
)


@given(buffers)
def test_buffers_that_live_together_do_not_overlap(drawn: Buffers) -> None:
    sizes = [size for size, _, _ in drawn]
    lifetimes = [(min(a, b), max(a, b)) for _, a, b in drawn]
    offsets, total = place(sizes, lifetimes)
    for i, (first, last) in enumerate(lifetimes):
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + sizes[i] <= total
        for j in range(i):
            if lifetimes[j][0] <= last and first <= lifetimes[j][1]:
                apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
                assert apart, (i, j)


def test_a_dead_buffer_gives_its_place_away() -> None:
    offsets, total = place([1000, 1000, 1000], [(0, 1), (1, 2), (2, 3)])
    assert offsets[0] == offsets[2]
    assert total < 3 * 1000


def test_the_smallest_gap_that_fits_is_taken() -> None:
    # Two gaps are left between long-lived buffers; the small one suits.
    sizes = [10_000, 9_000, 8_000, 7_000, 500]
    lifetimes = [(0, 9), (0, 1), (0, 9), (0, 9), (2, 9)]
    offsets, total = place(sizes, lifetimes)
    assert offsets[4] == offsets[1]
    assert total == place(sizes[:4], lifetimes[:4])[1]

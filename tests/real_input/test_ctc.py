"""Decoding against the sum over every path."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.real_input.ctc import beam, greedy, softmax

CHARACTERS = "ab"


def text_of(path: tuple[int, ...]) -> str:
    kept = [k for i, k in enumerate(path) if i == 0 or k != path[i - 1]]
    return "".join(CHARACTERS[k] for k in kept if k < len(CHARACTERS))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000))
def test_a_wide_beam_finds_the_likeliest_text(steps: int, seed: int) -> None:
    scores = softmax(np.random.default_rng(seed).normal(0, 2, (steps, 3)))
    totals: dict[str, float] = defaultdict(float)
    for path in product(range(3), repeat=steps):
        totals[text_of(path)] += float(np.prod(scores[range(steps), path]))
    found = beam(scores, CHARACTERS, width=200)
    assert totals[found] >= max(totals.values()) * (1 - 1e-9)


def test_many_weak_paths_outweigh_a_strong_one() -> None:
    # Blank, blank is the likeliest path (0.36); "a" has three paths (0.64 together).
    scores = np.array([[0.4, 0.0, 0.6], [0.4, 0.0, 0.6]])
    assert greedy(scores, CHARACTERS) == ""
    assert beam(scores, CHARACTERS) == "a"


def test_repeats_need_a_blank_between() -> None:
    one = np.array([[0.98, 0.01, 0.01]] * 3)
    two = np.array([[0.98, 0.01, 0.01], [0.01, 0.01, 0.98], [0.98, 0.01, 0.01]])
    for decode in (greedy, beam):
        assert decode(one, CHARACTERS) == "a"
        assert decode(two, CHARACTERS) == "aa"

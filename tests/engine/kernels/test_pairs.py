"""Products of bf16 pairs: what the instruction means, the kernel around it, the code of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from engine.codegen.emit import assembly, emit
from engine.codegen.target import select
from engine.kernels import dot
from engine.kernels.pairs import INSTRUCTION, WRITTEN
from engine.plan.packing import pack, pack_pairs, pairs_of
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]
TINY = np.float32(2.0**-126)


def flushed(x: Array) -> Array:
    """float32 with denormal numbers as zeros."""
    x = x.astype(np.float32)
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def near(x: Array) -> Array:
    """The nearest bf16 numbers of what is no denormal number, in float64."""
    return flushed(x).astype(bfloat16).astype(np.float64)


def expected(a: Array, b: Array, step: int) -> Array:
    """``a @ b`` as the manual says, in float64: the exact product of two bf16 numbers, added to a
    float32, needs more bits than these in rare cases only, which the data of the tests avoid."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for start in range(0, a.shape[1], step):
        left, right = near(a[:, start : start + step]), near(b[start : start + step])
        if left.shape[1] % 2:
            left, right = np.pad(left, ((0, 0), (0, 1))), np.pad(right, ((0, 1), (0, 0)))
        for k in range(0, left.shape[1], 2):
            for place in (k + 1, k):
                product = np.outer(left[:, place], right[place])
                total = flushed(total.astype(np.float64) + product)
    return total


def product(
    a: Array,
    b: Array,
    isa: str,
    *,
    vectors: int = 1,
    k1: int | None = None,
    k2: int = 1,
    m_block: int = 16,
    n_block: int = 1,
    k3_block: int = 1,
    pieces: int = 1,
) -> Array:
    """``a @ b`` by the written kernel, K cut into steps of `k1` times `k2`."""
    (m, depth), n = a.shape, b.shape[1]
    width = vectors * select(isa).lanes()
    k1 = depth // k2 if k1 is None else k1
    step = k1 * k2
    k3 = max(1, -(-depth // step))
    packed = pack_pairs(b[None], width, step)
    c = np.full((m, n), np.nan, np.float32)
    panels = packed.shape[1]
    m_items, n_items = -(-m // m_block), -(-panels // n_block)
    strides = {f"{name}_{axis}": 0 for name in "abc" for axis in ("b0", "b1")}
    strides.update({f"{name}_m{axis}": 0 for name in "ac" for axis in (0, 1)})
    status = run_kernel(
        dot.spec(vectors, pairs=WRITTEN),
        isa,
        m_items * n_items,
        scratch=1 << 20,
        pieces=pieces,
        # Where a kernel forgets to write, it finds what is no number.
        fill=255,
        a=a,
        b=packed,
        c=c,
        m=m,
        m1=1,
        m2=m,
        n=n,
        k1=k1,
        k1_last=(depth - step * (k3 - 1)) // k2,
        k2=k2,
        k3=k3,
        a_k2=k1 * 4,
        a_k3=step * 4,
        panel=packed.shape[2] * width * 4,
        batch1=1,
        m_block=m_block,
        n_block=n_block,
        k3_block=k3_block,
        m_items=m_items,
        n_items=n_items,
        rows_first=0,
        copied=0,
        run=m,
        a_m2=depth * 4,
        c_m2=n * 4,
        **strides,
    )
    assert status == 0
    return c


def matrices(m: int, depth: int, n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((m, depth)).astype(np.float32)
    return a, rng.standard_normal((depth, n)).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 40),
    depth=st.integers(1, 70),
    n=st.integers(1, 150),
    vectors=st.integers(1, 4),
    m_block=st.sampled_from([6, 12, 30]),
    n_block=st.integers(1, 3),
    pieces=st.integers(1, 4),
)
def test_bytes_are_those_of_the_manual(
    isa: str, m: int, depth: int, n: int, vectors: int, m_block: int, n_block: int, pieces: int
) -> None:
    vectors = min(vectors, select(isa).panel_vectors[-1])
    a, b = matrices(m, depth, n)
    options = {"vectors": vectors, "m_block": m_block, "n_block": n_block, "pieces": pieces}
    np.testing.assert_array_equal(product(a, b, isa, **options), expected(a, b, depth))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(1, 60),
    k1=st.integers(1, 30),
    k3_block=st.integers(1, 4),
    m_block=st.sampled_from([6, 12, 30]),
    pieces=st.integers(1, 3),
)
def test_steps_end_with_whole_pairs_and_the_schedule_does_not_change_bytes(
    isa: str, depth: int, k1: int, k3_block: int, m_block: int, pieces: int
) -> None:
    a, b = matrices(19, depth, 37)
    k1 = min(k1, depth)
    options = {"k1": k1, "k3_block": k3_block, "m_block": m_block, "pieces": pieces}
    np.testing.assert_array_equal(product(a, b, isa, **options), expected(a, b, k1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (5, 4), (1, 7), (8, 2)])
def test_pairs_straddle_the_runs_of_a_step(isa: str, k1: int, k2: int) -> None:
    a, b = matrices(14, 3 * k1 * k2, 21)
    found = product(a, b, isa, k1=k1, k2=k2, k3_block=2)
    np.testing.assert_array_equal(found, expected(a, b, k1 * k2))


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_gives_the_bytes_it_gives_among_others(isa: str) -> None:
    a, b = matrices(23, 51, 20)
    together = product(a, b, isa)
    for row in (0, 7, 22):
        np.testing.assert_array_equal(product(a[row : row + 1], b, isa)[0], together[row])


@pytest.mark.parametrize("isa", ISAS)
def test_denormal_numbers_count_as_zeros(isa: str) -> None:
    small = np.float32(2.0**-127)
    # Denormal factors, of either side; denormal products; products that are just large enough.
    a = np.array([[small, 2.0**120], [2.0**-64, 2.0**-64], [2.0**-60, 0]], np.float32)
    for b, wanted in (
        ([2.0**120, small], [0, 2.0**56, 2.0**60]),
        ([2.0**-66, 2.0**-66], [2.0**54, 0, 2.0**-126]),
    ):
        column = np.array(b, np.float32)[:, None]
        np.testing.assert_array_equal(product(a, column, isa)[:, 0], wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_the_upper_half_is_added_first(isa: str) -> None:
    large = np.float32(2.0**24)
    a = np.array([[1, large, 1, -large]], np.float32)
    b = np.ones((4, 1), np.float32)
    # ((large + 1) - large) + 1: the first 1 is lost, the second is not.
    assert product(a, b, isa)[0, 0] == 1
    a = np.array([[large, 1, -large, 1]], np.float32)
    # ((1 + large) + 1) - large: both are lost.
    assert product(a, b, isa)[0, 0] == 0


@pytest.mark.parametrize("isa", ISAS)
def test_values_that_are_no_numbers_and_those_too_large(isa: str) -> None:
    a = np.array([[np.nan, 1], [np.inf, 1], [3.3961775e38, 0], [1, 1]], np.float32)
    found = product(a, np.ones((2, 1), np.float32), isa)[:, 0]
    np.testing.assert_array_equal(found, [np.nan, np.inf, np.inf, 2])


@pytest.mark.parametrize(("depth", "step"), [(0, 0), (7, 7), (8, 3), (9, 3), (1, 5)])
def test_packing(depth: int, step: int) -> None:
    _, b = matrices(1, depth, 5)
    packed = pack_pairs(b[None], 4, step)
    assert packed.shape == (1, 2, pairs_of(depth, step), 4)
    halves = packed.view(np.uint16).reshape(1, 2, -1, 4, 2).swapaxes(3, 4).reshape(1, 2, -1, 4)
    values = halves.view(bfloat16).astype(np.float32)
    place = 0
    for start in range(0, depth, max(1, step)):
        part = b[start : start + step]
        wanted = pack(near(part).astype(np.float32)[None], 4)
        np.testing.assert_array_equal(values[:, :, place : place + len(part)], wanted)
        place += len(part) + len(part) % 2
    assert place == values.shape[2]


def test_the_instructions_are_those_of_avx512_bf16() -> None:
    target = select("avx512") if "avx512" in ISAS else None
    if target is None:
        pytest.skip("needs AVX-512")
    text = assembly(dot.spec(2, pairs=INSTRUCTION), target)
    tiles = len(target.tile_ladder(2))
    assert text.count("vdpbf16ps") >= 5 * 2 * tiles
    assert "vcvtneps2bf16" in text
    assert "vfmadd" not in text
    assert emit(dot.spec(2, pairs=INSTRUCTION), target)
    for spec in (dot.spec(2), dot.spec(2, pairs=WRITTEN)):
        other = assembly(spec, target)
        assert "bf16" not in other.replace(spec.symbol, "")

"""The dot kernel on matrices: any size, any schedule, the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.expression import Expr
from engine.codegen.target import select
from engine.kernels import dot
from engine.plan.packing import pack
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]


def product(
    a: Array,
    b: Array,
    isa: str,
    *,
    vectors: int = 1,
    k1: int | None = None,
    m_block: int = 16,
    n_block: int = 1,
    k3_block: int = 1,
    pieces: int = 1,
    rows_first: int = 0,
    copied: int = 0,
    run: int | None = None,
) -> Array:
    """``a @ b`` by the kernel, K cut into steps of `k1`; tiles may read `run` rows in place."""
    (m, depth), n = a.shape, b.shape[1]
    width = vectors * select(isa).lanes()
    packed = pack(b[None], width)
    c = np.full((m, n), np.nan, np.float32)
    k1 = depth if k1 is None else k1
    k3 = max(1, -(-depth // k1)) if k1 else 1
    panels = packed.shape[1]
    m_items, n_items = -(-m // m_block), -(-panels // n_block)
    spec = dot.spec(vectors)
    strides = {f"{name}_{axis}": 0 for name in "abc" for axis in ("b0", "b1")}
    strides.update({f"{name}_m{axis}": 0 for name in "ac" for axis in (0, 1)})
    status = run_kernel(
        spec,
        isa,
        m_items * n_items,
        scratch=1 << 20,
        pieces=pieces,
        a=a,
        b=packed,
        c=c,
        m=m,
        m1=1,
        m2=max(m, 1),
        n=n,
        k1=k1,
        k1_last=depth - k1 * (k3 - 1),
        k2=1,
        k3=k3,
        a_k2=0,
        a_k3=k1 * 4,
        panel=depth * width * 4,
        batch1=1,
        m_block=m_block,
        n_block=n_block,
        k3_block=k3_block,
        m_items=m_items,
        n_items=n_items,
        rows_first=rows_first,
        copied=copied,
        run=m if run is None else run,
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
    depth=st.integers(0, 70),
    n=st.integers(1, 150),
    vectors=st.integers(1, 4),
    m_block=st.sampled_from([6, 12, 30]),
    n_block=st.integers(1, 3),
    pieces=st.integers(1, 4),
    rows_first=st.integers(0, 1),
    copied=st.integers(0, 1),
    run=st.sampled_from([1, 7, 13, 40]),
)
def test_equals_numpy(
    isa: str,
    m: int,
    depth: int,
    n: int,
    vectors: int,
    m_block: int,
    n_block: int,
    pieces: int,
    rows_first: int,
    copied: int,
    run: int,
) -> None:
    vectors = min(vectors, select(isa).panel_vectors[-1])
    a, b = matrices(m, depth, n)
    options = {"vectors": vectors, "m_block": m_block, "n_block": n_block, "pieces": pieces}
    actual = product(a, b, isa, rows_first=rows_first, copied=copied, run=run, **options)
    assert_equal(actual, (a.astype(np.float64) @ b).astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=15, deadline=None)
@given(
    depth=st.integers(1, 60),
    k1=st.integers(1, 60),
    k3_block=st.integers(1, 4),
    m_block=st.sampled_from([6, 12, 30]),
    pieces=st.integers(1, 3),
    copied=st.integers(0, 1),
)
def test_the_schedule_does_not_change_bytes(
    isa: str, depth: int, k1: int, k3_block: int, m_block: int, pieces: int, copied: int
) -> None:
    a, b = matrices(19, depth, 37)
    plain = product(a, b, isa)
    k1 = min(k1, depth)
    options = {"k1": k1, "k3_block": k3_block, "m_block": m_block, "pieces": pieces}
    options["copied"] = copied
    assert product(a, b, isa, **options).tobytes() == plain.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_gives_the_bytes_it_gives_among_others(isa: str) -> None:
    a, b = matrices(23, 50, 20)
    together = product(a, b, isa)
    for row in range(len(a)):
        alone = product(a[row : row + 1], b, isa)
        assert alone.tobytes() == together[row : row + 1].tobytes()


def test_sums_run_in_the_order_of_k() -> None:
    # In float32, (1e8 + 1) - 1e8 is 0 and (1e8 - 1e8) + 1 is 1: the order shows.
    b = np.array([[1e8], [1.0], [-1e8]], np.float32)
    a = np.ones((1, 3), np.float32)
    for isa in ISAS:
        assert product(a, b, isa)[0, 0] == 0.0
        assert product(a, b[[0, 2, 1]], isa)[0, 0] == 1.0


def test_epilogue_inputs_are_declared_in_the_layout() -> None:
    value = Expr.of("add", Expr.input(0, "float32"), Expr.input(1, "float32"))
    spec = dot.spec(1, ["tile"], value)
    assert {"e0_m0", "e0_m1", "e0_m2", "e0_b0", "e0_b1"} <= spec.layout.fields.keys()
    assert "e0_m0" not in dot.spec(1, ["column"], value).layout.fields

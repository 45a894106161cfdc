"""The attention kernel: any sizes and masks, the same bytes under every schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.expression import Expr
from engine.codegen.target import select
from engine.kernels import attention
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]
SCORE = Expr.input(0, "float32")
SCALED = Expr.of("mul", SCORE, Expr.constant(0.3, "float32"))
MASKED = Expr.of("add", SCALED, Expr.input(1, "float32"))
BLOCK = 64


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    isa: str,
    *,
    causal: bool = False,
    guarded: bool = False,
    row_block: int = 24,
    pieces: int = 1,
) -> Array:
    """Scaled and masked attention; q [batch, query heads, length, size], k and v likewise."""
    (batch, query_heads, length, size), (_, heads, keys, value_size) = q.shape, v.shape
    group = query_heads // heads
    rows = group * length
    items = -(-rows // row_block)
    y = np.full((batch, query_heads, length, value_size), np.nan, np.float32)
    wide = np.broadcast_to(mask, (batch, query_heads, length, keys))
    strides: dict[str, int] = {}
    for name, array in (("q", q), ("y", y), ("e0", wide)):
        b, h, s = array.strides[:3]
        strides |= {f"{name}_b": b, f"{name}_h": h * group, f"{name}_g": h, f"{name}_s": s}
    for name, array in (("k", k), ("v", v)):
        strides |= dict(zip((f"{name}_b", f"{name}_h", f"{name}_s"), array.strides, strict=False))
    spec = attention.spec(2, ["c"], ["float32"], MASKED, causal=causal, guarded=guarded)
    status = run_kernel(
        spec,
        isa,
        batch * heads * items,
        scratch=1 << 20,
        pieces=pieces,
        q=q,
        k=k,
        v=v,
        y=y,
        e0=mask,
        heads=heads,
        group=group,
        length=length,
        keys=keys,
        size=size,
        value_size=value_size,
        past=max(keys - length, 0),
        row_block=row_block,
        row_items=items,
        key_block=BLOCK,
        **strides,
    )
    assert status == 0
    return y


def expected(q: Array, k: Array, v: Array, mask: Array, causal: bool) -> Array:
    group = q.shape[1] // k.shape[1]
    wide = [np.repeat(x.astype(np.float64), group, 1) for x in (k, v)]
    scores = q @ wide[0].swapaxes(2, 3) * 0.3 + mask
    if causal:
        past = max(k.shape[2] - q.shape[2], 0)
        visible = np.tri(q.shape[2], k.shape[2], past, bool)
        scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result: Array = weights / weights.sum(-1, keepdims=True) @ wide[1]
    return result.astype(np.float32)


def tensors(
    batch: int, heads: int, group: int, length: int, keys: int, size: int, value_size: int
) -> tuple[Array, Array, Array, Array]:
    """Queries, keys and values as the heads of [batch, length, heads * size], and a mask."""
    rng = np.random.default_rng(length * 1000 + keys)

    def by_head(steps: int, count: int, width: int) -> Array:
        flat = rng.standard_normal((batch, steps, count, width), dtype=np.float32)
        return flat.transpose(0, 2, 1, 3)

    mask = np.where(rng.random((batch, 1, 1, keys)) < 0.3, -1e4, 0).astype(np.float32)
    mask[..., 0] = 0
    q = by_head(length, heads * group, size)
    return q, by_head(keys, heads, size), by_head(keys, heads, value_size), mask


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("causal", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 2),
    group=st.integers(1, 3),
    length=st.integers(1, 30),
    keys=st.integers(1, 150),
    size=st.integers(1, 40),
    value_size=st.integers(1, 70),
)
def test_equals_float64(
    isa: str,
    causal: bool,
    batch: int,
    heads: int,
    group: int,
    length: int,
    keys: int,
    size: int,
    value_size: int,
) -> None:
    q, k, v, mask = tensors(batch, heads, group, length, keys, size, value_size)
    assert_equal(attend(q, k, v, mask, isa, causal=causal), expected(q, k, v, mask, causal))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_row_gives_its_bytes_under_any_schedule(isa: str, causal: bool) -> None:
    q, k, v, mask = tensors(2, 2, 2, 37, 150, 24, 40)
    plain = attend(q, k, v, mask, isa, causal=causal)
    for row_block, pieces in ((48, 3), (96, 2)):
        again = attend(q, k, v, mask, isa, causal=causal, row_block=row_block, pieces=pieces)
        assert again.tobytes() == plain.tobytes()
    alone = attend(q[1:], k[1:], v[1:], mask[1:], isa, causal=causal)
    assert alone.tobytes() == plain[1:].tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_rows_without_a_visible_key(isa: str) -> None:
    q, k, v, mask = tensors(1, 1, 1, 5, 100, 8, 8)
    # In the first block of keys, and in all of them.
    mask[..., : BLOCK + 3] = -np.inf
    assert_equal(attend(q, k, v, mask, isa), expected(q, k, v, mask, False))
    mask[...] = -np.inf
    assert np.isnan(attend(q, k, v, mask, isa)).all()
    assert (attend(q, k, v, mask, isa, guarded=True) == 0).all()


def test_scratch_that_the_lowering_asks_for_is_enough() -> None:
    for isa in ISAS:
        target = select(isa)
        assert attention.tallest(target) >= 4
        assert BLOCK % (attention.widths(target)[0] * target.lanes()) == 0

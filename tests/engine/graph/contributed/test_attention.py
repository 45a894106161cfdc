"""Attention of the domain com.microsoft, with every form of mask, past and packing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.reader import read
from tests.engine.graph.contributed.support import check, model_of
from tests.engine.graph.contributed.test_operators import normal
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
_examples = settings(max_examples=15, deadline=None)
sizes = st.integers(1, 4)
HEADS, WIDTH = 2, 8


def mask_of(kind: str, batch: int, queries: int, keys: int, seed: int) -> Array | None:
    """A mask that leaves the first key: scores of fully masked rows are rounding noise."""
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "lengths":
        return rng.integers(1, keys + 1, batch).astype(np.int32)
    if kind == "ranges":
        ends = rng.integers(1, keys + 1, batch)
        return np.concatenate([ends, np.zeros(batch)]).astype(np.int32)
    shape = (batch, keys) if kind == "keys" else (batch, queries, keys)
    mask = rng.integers(0, 2, shape).astype(np.int32)
    mask[..., 0] = 1
    return mask


@given(
    batch=sizes,
    length=sizes,
    past=st.integers(0, 3),
    kind=st.sampled_from(["none", "lengths", "ranges", "keys", "pairs"]),
    causal=st.booleans(),
    bias=st.booleans(),
)
@_examples
def test_attention(batch: int, length: int, past: int, kind: str, causal: bool, bias: bool) -> None:
    total = past + length
    inputs: dict[str, Array] = {
        "x": normal((batch, length, 6)),
        "w": normal((6, 3 * WIDTH), 1),
        "b": normal((3 * WIDTH,), 2),
    }
    order = [*inputs, "", "", ""]
    mask = mask_of(kind, batch, length, total, length)
    if mask is not None:
        inputs["mask"], order[3] = mask, "mask"
    outputs = ["y"]
    if past:
        inputs["past"] = normal((2, batch, HEADS, past, WIDTH // HEADS), 3)
        order[4] = "past"
        outputs.append("present")
    if bias and not past:
        inputs["extra"], order[5] = normal((1, HEADS, length, total), 4), "extra"
    check(
        "Attention",
        inputs,
        order=order,
        outputs=outputs,
        constants=["w", "b"],
        num_heads=HEADS,
        unidirectional=int(causal),
    )


def test_values_of_another_width_and_a_scale() -> None:
    sizes = [8, 8, 12]
    inputs = {"x": normal((2, 3, 6)), "w": normal((6, 28), 1), "b": normal((28,), 2)}
    check("Attention", inputs, constants=["w"], num_heads=2, qkv_hidden_sizes=sizes, scale=0.3)


@given(
    batch=sizes,
    length=sizes,
    keys=sizes,
    kind=st.sampled_from(["none", "lengths", "keys", "pairs"]),
    heads_first=st.booleans(),
    bias=st.booleans(),
    past=st.integers(0, 2),
)
@settings(max_examples=25, deadline=None)
def test_multi_head_attention(
    batch: int, length: int, keys: int, kind: str, heads_first: bool, bias: bool, past: int
) -> None:
    keys = length if past else keys
    past = 0 if heads_first else past
    size = WIDTH // HEADS
    other = (batch, HEADS, keys, size) if heads_first else (batch, keys, WIDTH)
    shapes = [(batch, length, WIDTH), other, other]
    inputs = {f"x{i}": normal(shape, i) for i, shape in enumerate(shapes)}
    order = [*inputs, *[""] * 5]
    if bias:
        inputs["bias"], order[3] = normal((3 * WIDTH,), 5), "bias"
    mask = mask_of(kind, batch, length, past + keys, keys)
    if mask is not None:
        inputs["mask"], order[4] = mask, "mask"
    outputs = ["y"]
    if past:
        for index, name in ((6, "past_k"), (7, "past_v")):
            inputs[name], order[index] = normal((batch, HEADS, past, size), index), name
        outputs += ["present_k", "present_v"]
    static = ["bias"] if "bias" in inputs else []
    check(
        "MultiHeadAttention",
        inputs,
        order=order,
        outputs=outputs,
        constants=static,
        num_heads=HEADS,
    )


def test_ranges_of_keys() -> None:
    inputs: dict[str, Array] = {
        "x": normal((2, 5, 6)),
        "w": normal((6, 3 * WIDTH), 1),
        "b": normal((3 * WIDTH,), 2),
        "mask": np.array([4, 5, 1, 2], np.int32),
    }
    check("Attention", inputs, constants=["w", "b"], num_heads=HEADS)


@pytest.mark.parametrize("count", [2, 3])
def test_packed_forms_are_the_unpacked_one(count: int) -> None:
    """The operator's own runtime has no CPU kernel for packed forms."""
    parts = [normal((2, 5, HEADS, 4), i) for i in range(3)]
    flat = {f"x{i}": part.reshape(2, 5, WIDTH) for i, part in enumerate(parts)}
    (expected,) = run_oracle(model_of("MultiHeadAttention", flat, num_heads=HEADS), flat)
    packed = np.stack(parts[3 - count :], axis=3)
    feed = {"x0": packed} if count == 3 else {"x0": flat["x0"], "x1": packed}
    graph = read(model_of("MultiHeadAttention", feed, num_heads=HEADS))
    np.testing.assert_allclose(interpret(graph, feed)[0], expected, atol=1e-5)


@given(batch=sizes, length=sizes, interleaved=st.booleans(), offset=st.booleans())
@_examples
def test_rotary_embedding(batch: int, length: int, interleaved: bool, offset: bool) -> None:
    rng = np.random.default_rng(length)
    positions = np.array([3]) if offset else rng.integers(0, 9, (batch, length))
    angles = rng.uniform(0, 6, (16, 4))
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    flat = {"x": normal((batch, length, 16)), "positions": positions, **tables}
    more = {"constants": ["cos", "sin"], "interleaved": int(interleaved)}
    check("RotaryEmbedding", flat, **more)
    if not offset:
        check("RotaryEmbedding", {**flat, "x": normal((batch, 2, length, 8))}, **more)


@given(
    batch=sizes,
    length=sizes,
    past=st.integers(0, 4),
    shared=st.booleans(),
    packed=st.booleans(),
    rotary=st.booleans(),
    window=st.sampled_from([-1, 2]),
)
@settings(max_examples=20, deadline=None)
def test_group_query_attention(
    batch: int, length: int, past: int, shared: bool, packed: bool, rotary: bool, window: int
) -> None:
    size, heads, groups = 16, 4, 2
    length = length if past == 0 else 1
    room = length + 2 if shared else 0
    rng = np.random.default_rng(past + 10 * length)
    rows = [(batch, length, n * size) for n in (heads, groups, groups)]
    inputs: dict[str, Array] = {f"x{i}": normal(shape, i) for i, shape in enumerate(rows)}
    if packed:
        inputs = {"x0": np.concatenate(list(inputs.values()), axis=2)}
    order = [*inputs, *([""] * 2 if packed else [])]
    held = rng.integers(1, past + 1, batch) if past else np.zeros(batch, np.int64)
    if past:
        held[0] = past
    inputs["past_k"] = normal((batch, groups, past + room, size), 7)
    inputs["past_v"] = normal((batch, groups, past + room, size), 8)
    inputs["lengths"] = (held + length - 1).astype(np.int32)
    inputs["total"] = np.array(past + length, np.int32)
    order += ["past_k", "past_v", "lengths", "total"]
    if rotary:
        angles = rng.uniform(0, 6, (16, size // 2))
        inputs["cos"], inputs["sin"] = (f(angles).astype(np.float32) for f in (np.cos, np.sin))
        order += ["cos", "sin"]
    names = ["cos", "sin"] if rotary else []
    data = dict(inputs)
    outputs = ["y", "key", "value"]
    check_valid(data, order, outputs, names, held + length, rotary, window)


def check_valid(
    inputs: dict[str, Array],
    order: list[str],
    outputs: list[str],
    constants: list[str],
    filled: Array,
    rotary: bool,
    window: int,
) -> None:
    """As `check`, where buffers hold something: behind it they are undefined."""
    attributes = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": int(rotary)}
    data = model_of(
        "GroupQueryAttention",
        inputs,
        order=order,
        outputs=outputs,
        constants=constants,
        local_window_size=window,
        **attributes,
    )
    feed = {name: array for name, array in inputs.items() if name not in constants}
    expected = run_oracle(data, feed)
    found = interpret(read(data), feed)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-4)
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert mine.shape == theirs.shape
        for row, count in enumerate(filled):
            np.testing.assert_allclose(mine[row, :, :count], theirs[row, :, :count], atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_relative_position_bias(both: bool) -> None:
    """By the definition of T5, as the operator's own runtime has no CPU kernel for it."""
    table, length = normal((8, 3)), np.array(6)
    inputs = {"table": table, "queries": length, "keys": length}
    data = model_of(
        "RelativePositionBias",
        inputs,
        constants=["table"],
        max_distance=8,
        is_bidirectional=int(both),
    )
    (found,) = interpret(read(data), {"queries": length, "keys": length})
    # Of 8 buckets 4 are for each side, 2 of them exact; or 8 for one side, 4 of them exact.
    near = [0, 1, 2, 2, 3, 3] if both else [0, 1, 2, 3, 4, 5]
    for query in range(6):
        for key in range(6):
            distance = query - key
            bucket = near[abs(distance)] if both or distance > 0 else 0
            bucket += 4 if both and distance < 0 else 0
            np.testing.assert_array_equal(found[0, :, query, key], table[bucket])

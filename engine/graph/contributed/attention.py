"""Attention and rotary embedding, as the standard operators of opset 23.

Masks become one additive mask that broadcasts to [batch, heads, queries, keys]: what is masked gets
the attribute `mask_filter_value`, which is finite, so that a row with nothing but masked keys
attends to all of them evenly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.body import (
    Body,
    Unsupported,
    constant_of,
    dtype_of,
    known_size,
    rank_of,
    shape_of,
)
from engine.graph.contributed.registry import expands
from engine.graph.ir import Value

_MASK = -10000.0


@expands("Attention")
def _attention(b: Body) -> None:
    """Attention of ``X @ W + bias``, split into queries, keys and values along the last axis."""
    b.refuse_inputs(past_sequence_length=6)
    joint = b.add(b("MatMul", b.input(0), b.input(1)), b.optional(2))
    _self_attention(b, joint, mask=b.optional(3), past=b.optional(4), bias=b.optional(5))


@expands("QAttention")
def _quantised_attention(b: Body) -> None:
    """As Attention of the dequantised input and weights."""
    x = b("DequantizeLinear", b.input(0), b.input(3), b.optional(6))
    w = b("DequantizeLinear", b.input(1), b.input(4), b.optional(7), axis=1)
    joint = b.add(b("MatMul", x, w), b.input(2))
    _self_attention(b, joint, mask=b.optional(5), past=b.optional(8), bias=None)


def _self_attention(
    b: Body, joint: Value, *, mask: Value | None, past: Value | None, bias: Value | None
) -> None:
    if b.attribute("do_rotary", 0) or b.attribute("past_present_share_buffer", 0):
        raise Unsupported("rotary embedding inside and shared buffers are not supported")
    sizes = b.attribute("qkv_hidden_sizes")
    if sizes:
        parts = b.several("Split", 3, joint, b.ints(*sizes), axis=2)
    else:
        parts = b.several("Split", 3, joint, axis=2, num_outputs=3)
    heads = int(b.attribute("num_heads"))
    keys = values = None
    if past is not None:
        both = b.several("Split", 2, past, axis=0, num_outputs=2)
        keys, values = (b("Squeeze", v, b.ints(0)) for v in both)
    added = _additive_mask(b, mask, parts[0], keys)
    total = b.add(bias, added) if bias is not None else added
    y, present = _attend(b, parts, heads, heads, total, (keys, values))
    b.give(0, y)
    if b.wants(1):
        b.give(1, b("Concat", *(b("Unsqueeze", v, b.ints(0)) for v in present), axis=0))


def _attend(
    b: Body,
    qkv: list[Value],
    heads: int,
    kv_heads: int,
    mask: Value | None,
    past: tuple[Value | None, Value | None],
    causal: bool | None = None,
) -> tuple[Value, list[Value]]:
    """The standard operator: its result, and keys and values with the past before them."""
    attributes: dict[str, Any] = {}
    if rank_of(qkv[0]) == 3:
        attributes = {"q_num_heads": heads, "kv_num_heads": kv_heads}
    if b.attribute("scale"):
        attributes["scale"] = float(b.attribute("scale"))
    if b.attribute("softcap"):
        attributes["softcap"] = float(b.attribute("softcap"))
    if b.attribute("unidirectional", 0) if causal is None else causal:
        attributes["is_causal"] = 1
    inputs = [*qkv, mask, *past]
    if past[0] is None and not (b.wants(1) or b.wants(2)):
        return b("Attention", *inputs, **attributes), []
    if past[0] is None:
        y = b("Attention", *inputs, **attributes)
        return y, [_heads_first(b, v, kv_heads) for v in qkv[1:]]
    y, key, value = b.several("Attention", 3, *inputs, **attributes)
    return y, [key, value]


def _heads_first(b: Body, value: Value, heads: int) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    if rank_of(value) == 4:
        return value
    return b.transpose(b.reshape(value, 0, 0, heads, -1), 0, 2, 1, 3)


def _additive_mask(
    b: Body, mask: Value | None, like: Value, past: Value | None, keys: Value | None = None
) -> Value | None:
    """A mask of integers as one that is added.

    Of rank 1, it holds the number of keys per row of the batch, or these and then the first key of
    each; of rank 2 and 3, it is positive where keys take part. `like` is the query and also the
    source of the number of keys unless `keys` are given.
    """
    if mask is None:
        return None
    dtype = dtype_of(like)
    if rank_of(mask) == 1:
        allowed = _ranges(b, mask, like, past, keys)
    else:
        allowed = b("Greater", mask, b.like(0, mask))
    filter_value = b.constant(np.array(b.attribute("mask_filter_value", _MASK), dtype))
    added = b("Where", allowed, b.like(0, like), filter_value)
    if rank_of(added) == 4:
        return added
    return b("Unsqueeze", added, b.ints(1, 2) if rank_of(added) == 2 else b.ints(1))


def _ranges(b: Body, mask: Value, like: Value, past: Value | None, keys: Value | None) -> Value:
    """Where keys lie in the range of their row, as [batch, keys]."""
    count = b.size(keys or like, 1)
    if past is not None:
        count = b.add(count, b.size(past, 2))
    zero, one = b.constant(np.array(0)), b.constant(np.array(1))
    positions = b("Range", zero, b.reshape(count), one)
    batch, entries = shape_of(like)[0], shape_of(mask)[0]
    bounds = b.cast(mask, np.int64)
    ends, starts = bounds, None
    if entries == batch * 2:
        ends, starts = b.several("Split", 2, bounds, axis=0, num_outputs=2)
    elif entries != batch:
        # Nothing says which form it is: with zeros behind, both have the first keys there.
        rows = b.size(like, 0)
        zeros = b("Expand", b.ints(0), rows)
        ends = b("Slice", bounds, b.ints(0), rows, b.ints(0))
        starts = b(
            "Slice",
            b("Concat", bounds, zeros, axis=0),
            rows,
            b.add(rows, rows),
            b.ints(0),
        )
    allowed = b("Less", positions, b("Unsqueeze", ends, b.ints(1)))
    if starts is None:
        return allowed
    return b("And", allowed, b("GreaterOrEqual", positions, b("Unsqueeze", starts, b.ints(1))))


@expands("MultiHeadAttention")
def _multi_head_attention(b: Body) -> None:
    """Attention of queries, keys and values, each with its part of the bias added.

    They come apart, or packed behind the heads: [batch, length, heads, 3 or 2, size].
    """
    b.refuse_inputs(past_sequence_length=8, cache_indirection=9)
    if b.wants(3):
        raise Unsupported("its output qk is not supported")
    heads = int(b.attribute("num_heads"))
    qkv = _unpacked(b)
    bias = b.optional(3)
    if bias is not None:
        qkv = _biased(b, qkv, bias)
    past = (b.optional(6), b.optional(7))
    if any(rank_of(v) == 4 for v in qkv):
        query = qkv[0]
        mask = _additive_mask(b, b.optional(4), query, past[0], _lengths_first(b, qkv[1]))
        qkv = [_heads_first(b, v, heads) for v in qkv]
    else:
        mask = _additive_mask(b, b.optional(4), qkv[0], past[0], qkv[1])
    extra = b.optional(5)
    total = b.add(extra, mask) if extra is not None else mask
    y, present = _attend(b, qkv, heads, heads, total, past)
    if rank_of(y) == 4:
        y = b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1)
    b.give(0, y)
    for index, value in enumerate(present, 1):
        b.give(index, value)


def _lengths_first(b: Body, keys: Value) -> Value:
    return keys if rank_of(keys) == 3 else b.transpose(keys, 0, 2, 1, 3)


def _unpacked(b: Body) -> list[Value]:
    query, key, value = b.input(0), b.optional(1), b.optional(2)
    if key is None:
        packed = [query]
        if rank_of(query) != 5:
            raise Unsupported("without keys its query must have rank 5")
    elif value is None:
        packed = [key]
        if rank_of(key) != 5:
            raise Unsupported("without values its keys must have rank 5")
    else:
        return [query, key, value]
    count = 3 if key is None else 2
    parts = b.several("Split", count, packed[0], axis=3, num_outputs=count)
    flat = [b.reshape(part, 0, 0, -1) for part in parts]
    return flat if key is None else [query, *flat]


def _biased(b: Body, qkv: list[Value], bias: Value) -> list[Value]:
    """Each of queries, keys and values with its part of the bias.

    Keys and values that come with heads first were computed earlier and have it already.
    """
    width = known_size(qkv[0], 2)
    if any(rank_of(v) == 4 for v in qkv):
        return [b.add(qkv[0], b("Slice", bias, b.ints(0), b.ints(width), b.ints(0))), *qkv[1:]]
    sizes = [known_size(v, 2) for v in qkv]
    parts = b.several("Split", 3, bias, b.ints(*sizes), axis=0)
    return [b.add(v, part) for v, part in zip(qkv, parts, strict=True)]


@expands("RotaryEmbedding")
def _rotary_embedding(b: Body) -> None:
    """The standard operator; a single position counts up along the sequence."""
    if b.attribute("is_packed_batching", 0) or b.attribute("scale", 1.0) != 1.0:
        raise Unsupported("packed batches and scales are not supported")
    x, positions = b.input(0), b.input(1)
    b.give(0, _rotated(b, x, positions, b.input(2), b.input(3), b.attribute("num_heads", 0)))


def _rotated(
    b: Body, x: Value, positions: Value, cosines: Value, sines: Value, heads: int
) -> Value:
    axis = 1 if rank_of(x) == 3 else 2
    if rank_of(positions) == 1:
        steps = b(
            "Range",
            b.constant(np.array(0)),
            b.reshape(b.size(x, axis)),
            b.constant(np.array(1)),
        )
        rows = b("Concat", b.size(x, 0), b.size(x, axis), axis=0)
        positions = b("Expand", b.add(b.cast(positions, np.int64), steps), rows)
    attributes: dict[str, Any] = {"interleaved": int(b.attribute("interleaved", 0))}
    part = int(b.attribute("rotary_embedding_dim", 0))
    if part:
        attributes["rotary_embedding_dim"] = part
    if rank_of(x) == 3:
        attributes["num_heads"] = int(heads) or known_size(x, 2) // (2 * known_size(cosines, 1))
    return b("RotaryEmbedding", x, cosines, sines, positions, **attributes)


@expands("GroupQueryAttention")
def _group_query_attention(b: Body) -> None:
    """Causal attention with fewer heads of keys and values, positions counted per row.

    Row r holds ``seqlens_k[r] + 1`` keys after this call, of which the last ones are new: with p
    the number before it, key t is past key t where ``t < p``, else new key ``t - p``. Query i
    attends to keys up to ``p + i``, with a window to the last of them. The buffers of the past may
    be longer than what they hold.
    """
    for name, index in (("head_sink", 11), ("k_scale", 12), ("q_norm_weight", 14)):
        b.refuse_inputs(**{name: index})
    for name in ("smooth_softmax", "kv_cache_bit_width", "qk_output"):
        if b.attribute(name, 0) not in (0, -1):
            raise Unsupported(f"its attribute {name} is not supported")
    heads, kv_heads = int(b.attribute("num_heads")), int(b.attribute("kv_num_heads"))
    query, key, value = b.input(0), b.optional(1), b.optional(2)
    if key is None or value is None:
        size = known_size(query, 2) // (heads + 2 * kv_heads)
        sizes = b.ints(heads * size, kv_heads * size, kv_heads * size)
        query, key, value = b.several("Split", 3, query, sizes, axis=2)
    zero, one = b.constant(np.array(0)), b.constant(np.array(1))
    new = b.size(query, 1)
    steps = b("Range", zero, b.reshape(new), one)
    total = b.add(b.reshape(b.cast(b.input(5), np.int64), -1, 1), one)
    before = b("Max", b("Sub", total, new), zero)
    if b.attribute("do_rotary", 0):
        positions = b.optional(9)
        positions = b.add(before, steps) if positions is None else positions
        interleaved: dict[str, Any] = {"interleaved": int(b.attribute("rotary_interleaved", 0))}
        cosines, sines = b.input(7), b.input(8)
        turn = {"query": (query, heads), "key": (key, kv_heads)}
        query, key = (
            b("RotaryEmbedding", x, cosines, sines, positions, num_heads=n, **interleaved)
            for x, n in turn.values()
        )
    keys, values = _heads_first(b, key, kv_heads), _heads_first(b, value, kv_heads)
    if b.optional(3) is not None:
        longest = b("Max", b.size(b.input(3), 2), b.reshape(b.cast(b.input(6), np.int64), -1))
        slots = b("Range", zero, b.reshape(longest), one)
        keys = _extended(b, b.input(3), keys, slots, before, new)
        values = _extended(b, b.input(4), values, slots, before, new)
    else:
        slots = steps
    allowed = _window(b, slots, b.add(before, steps))
    bias = b.optional(10)
    if bias is not None:
        lowest = b.constant(np.array(-np.inf, dtype_of(bias)))
        bias = b("Slice", bias, b.ints(0), b.size(keys, 2), b.ints(3))
        allowed = b("Where", allowed, bias, lowest)
    y, _ = _attend(
        b,
        [_heads_first(b, query, heads), keys, values],
        heads,
        kv_heads,
        allowed,
        (None, None),
        causal=False,
    )
    b.give(0, b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1))
    b.give(1, keys)
    b.give(2, values)


def _window(b: Body, slots: Value, positions: Value) -> Value:
    """Which of the key `slots` queries at `positions` [batch, queries] see."""
    at = b("Unsqueeze", positions, b.ints(1, 3))
    allowed = b("LessOrEqual", slots, at)
    size = int(b.attribute("local_window_size", -1))
    if size > 0:
        allowed = b("And", allowed, b("Greater", slots, b("Sub", at, b.constant(np.array(size)))))
    return allowed


def _extended(b: Body, past: Value, fresh: Value, slots: Value, before: Value, new: Value) -> Value:
    """Past and fresh rows [batch, heads, length, size] in order, `before` of the past per row."""
    joint = b.transpose(b("Concat", past, fresh, axis=2), 0, 2, 1, 3)
    held = b.size(past, 2)
    zero, one = b.constant(np.array(0)), b.constant(np.array(1))
    offset = b("Min", b("Max", b("Sub", slots, before), zero), b("Sub", new, one))
    index = b("Where", b("Less", slots, before), slots, b.add(held, offset))
    picked = b("GatherND", joint, b("Unsqueeze", index, b.ints(2)), batch_dims=1)
    return b.transpose(picked, 0, 2, 1, 3)


@expands("RelativePositionBias")
def _relative_position_bias(b: Body) -> None:
    """Rows of the bias table [buckets, heads] by the bucket of each distance (T5).

    Distances below half of the buckets have one each, others share them logarithmically.
    """
    table = constant_of(b.input(0), "its bias table")
    both = bool(b.attribute("is_bidirectional", 0))
    farthest = int(b.attribute("max_distance"))
    if farthest <= len(table) // (4 if both else 2):
        raise Unsupported(f"{len(table)} buckets do not reach beyond a distance of {farthest}")
    zero, one = b.constant(np.array(0)), b.constant(np.array(1))
    queries, keys = (b("Range", zero, b.reshape(b.cast(b.input(i), np.int64)), one) for i in (1, 2))
    # The distance is bounded, so the bucket of each is a table itself.
    distance = b("Sub", keys, b("Unsqueeze", queries, b.ints(1)))
    near = b.constant(np.array(-farthest)), b.constant(np.array(farthest))
    index = b.add(b("Min", b("Max", distance, near[0]), near[1]), near[1])
    buckets = _buckets(np.arange(-farthest, farthest + 1), len(table), farthest, both)
    rows = b.constant(np.ascontiguousarray(table[buckets].T))
    b.give(0, b("Unsqueeze", b("Gather", rows, index, axis=1), b.ints(0)))


def _buckets(
    distances: np.ndarray[tuple[int], np.dtype[np.int64]], count: int, farthest: int, both: bool
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    offset = np.zeros_like(distances)
    if both:
        count //= 2
        offset = np.where(distances > 0, count, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distances, 1).astype(np.float32) / exact)
    ratio = ratio / np.float32(np.log(farthest / exact)) * (count - exact)
    far = np.minimum(exact + ratio.astype(np.int64), count - 1)
    return offset + np.where(distances < exact, distances, far)

"""Rules of attention and rotary embedding."""

from __future__ import annotations

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference, Shape
from engine.graph.inference.registry import rule


def _heads(node: Inference, index: int, heads: str) -> Shape:
    """Shape of an attention input as (batch, heads, length, head size)."""
    shape = node.shape(index)
    if node.rank(index, 3, 4) == 4:
        return shape
    count = node.attribute(heads)
    if not count:
        node.error(f"{heads} is missing, which inputs of rank 3 need")
    if shape[2].is_constant and shape[2].value % count:
        node.error(f"{shape[2]} columns do not divide into {count} heads")
    return (shape[0], Dim.of(count), shape[1], shape[2] // count)


@rule("Attention")
def _attention(node: Inference) -> None:
    query = _heads(node, 0, "q_num_heads")
    key = _heads(node, 1, "kv_num_heads")
    value = _heads(node, 2, "kv_num_heads")
    batch = node.require_equal(query[0], key[0], "the batch axes of query and key")
    node.require_equal(query[3], key[3], "the head sizes of query and key")
    node.require_equal(key[2], value[2], "the lengths of key and value")
    node.require_equal(key[1], value[1], "the heads of key and value")
    total = key[2]
    if node.has(4):
        node.rank(4, 4)
        total = total + node.shape(4)[2]
    if len(node.shape(0)) == 4:
        node.output(0, (batch, query[1], query[2], value[3]))
    else:
        node.output(0, (batch, query[2], query[1] * value[3]))
    node.output(1, (batch, key[1], total, key[3]))
    node.output(2, (batch, value[1], total, value[3]))
    node.output(3, (batch, query[1], query[2], total))


@rule("LinearAttention")
def _linear_attention(node: Inference) -> None:
    for index in range(3):
        node.rank(index, 3)
    queries, heads = node.attribute("q_num_heads"), node.attribute("kv_num_heads")
    batch, steps, _ = node.shape(0)
    key_size, value_size = node.shape(1)[2] // heads, node.shape(2)[2] // heads
    node.output(0, (batch, steps, value_size * queries))
    node.output(1, (batch, heads, key_size, value_size))


@rule("RotaryEmbedding")
def _rotary_embedding(node: Inference) -> None:
    node.rank(0, 3, 4)
    node.same_shape()


@rule("TensorScatter")
def _tensor_scatter(node: Inference) -> None:
    node.same_shape()

"""Lowering of ``packhorse.Attention`` onto the kernel family ``attention``.

Inputs are queries [batch, heads, length, size], keys [batch, heads, keys, size] and values [batch,
heads, keys, value size], with fewer leading axes where a model has fewer, then what takes part in
the scores, and with `past` the earlier keys, whose number shifts the causal mask. Transposes before
and after are strides. The result has the shape of the queries with the size of the values; with
`transposed` it is [batch, length, heads, value size].
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from engine.graph.dims import Dim, ceildiv, maximum, minimum, select_stride
from engine.graph.ir import Node
from engine.kernels import attention as kernel
from engine.plan.lowering import Lowering, lowers
from engine.plan.tensor import ONE, ZERO, Tensor
from engine.precision import ARITHMETIC

KEY_BLOCK: Final = 256
"""Keys per block of the online softmax: part of the arithmetic, so it is the same everywhere. Keys,
values and the scores of a row block then fit a second-level cache of 512 KiB."""

_ROW_BLOCK: Final = 192
"""Most rows of an item: keys are packed once per item."""

_ROW_STEP: Final = 24
"""Row blocks are whole tiles of six, of eight and of twelve rows."""

_ITEMS_PER_THREAD: Final = 3


@lowers("packhorse.Attention")
def attention(node: Node, low: Lowering) -> None:
    """One kernel call for the whole of it."""
    q, k, v = (_four_axes(_dense(low, low.read(node.inputs[i]))) for i in range(3))
    inputs = node.inputs[3:]
    past = ZERO
    if node.attribute("past", False):
        earlier = inputs.pop()
        assert earlier is not None
        assert earlier.shape is not None
        past = earlier.shape[2]
    extras = [_four_axes(_dense(low, low.read(value))) for value in inputs]
    target = _four_axes(low.write(node.outputs[0], dense=False))
    y = target.permute((0, 2, 1, 3)) if node.attribute("transposed", False) else target
    (batch, query_heads, length, _), keys, size = y.shape, k.shape[2], q.shape[3]
    heads = query_heads
    if k.shape[1].is_constant and query_heads.is_constant and k.shape[1] != ONE:
        heads = k.shape[1]
    group = query_heads // heads
    value_size = v.shape[3]
    narrow = value_size.is_constant and value_size.value <= low.target.lanes()
    vectors = 1 if narrow else min(2, low.target.panel_vectors[-1])
    access = ["c" if e.shape[3] == keys and keys != ONE else "s" for e in extras]
    dtypes = [e.dtype.name for e in extras]
    spec = kernel.spec(
        vectors,
        access,
        dtypes,
        node.attribute("score"),
        causal=bool(node.attribute("causal", 0)),
        guarded=bool(node.attribute("guarded", False)),
        rounded=node.attribute("precision") == ARITHMETIC,
    )
    rows = group * length
    pairs = batch * heads
    wanted = ceildiv(pairs * rows, _ITEMS_PER_THREAD * low.threads)
    row_block = minimum(maximum(ceildiv(wanted, _ROW_STEP) * _ROW_STEP, _ROW_STEP), _ROW_BLOCK)
    blocks = maximum(ceildiv(rows, row_block), 1)
    row_block = maximum(ceildiv(ceildiv(rows, blocks), _ROW_STEP) * _ROW_STEP, _ROW_STEP)
    row_items = ceildiv(rows, row_block)
    numbers: dict[str, Dim | int] = {}
    for name, tensor in (("q", q), ("y", y)):
        strides = _strides(tensor, y.shape)
        numbers.update(_steps(name, strides, tensor.itemsize, group))
    for i, tensor in enumerate(extras):
        strides = _strides(tensor, y.shape)
        numbers.update(_steps(f"e{i}", strides, tensor.itemsize, group))
    for name, tensor in (("k", k), ("v", v)):
        strides = _strides(tensor, (batch, heads, keys))
        for suffix, stride in zip("bhs", strides, strict=True):
            numbers[f"{name}_{suffix}"] = stride * tensor.itemsize
    cost = row_block * keys * (size + value_size + 48) * 2
    low.call(
        spec,
        items=pairs * row_items,
        cost=cost // (8 * low.target.lanes()) + keys * (size + value_size) // 8 + 200,
        scratch=_scratch(low, row_block, size, value_size, vectors, len(extras)),
        writes="y",
        heads=heads,
        group=group,
        length=length,
        keys=keys,
        size=size,
        value_size=value_size,
        past=past,
        row_block=row_block,
        row_items=row_items,
        key_block=KEY_BLOCK,
        q=q,
        k=k,
        v=v,
        y=y,
        **{f"e{i}": tensor for i, tensor in enumerate(extras)},
        **numbers,
    )


def _scratch(
    low: Lowering, row_block: Dim, size: Dim, value_size: Dim, vectors: int, extras: int
) -> Dim:
    """Bytes that the kernel divides up; see `engine.kernels.attention`."""
    rows = row_block + kernel.tallest(low.target)
    lanes = low.target.lanes()
    q_row = (ceildiv(size, 16)) * 64
    v_row = maximum(ceildiv(value_size, vectors * lanes), 1) * (vectors * lanes * 4)
    s_row = (KEY_BLOCK + kernel.SCORE_GAP) * 4
    return (
        rows * (q_row + v_row + s_row + 12 + 8 * extras + lanes * 4)
        + KEY_BLOCK * (q_row + v_row)
        + 1024
    )


def _dense(low: Lowering, tensor: Tensor) -> Tensor:
    """The tensor with its last axis dense; an axis of length 1 may have any stride."""
    if tensor.rank == 0 or tensor.strides[-1] == ONE or tensor.shape[-1] == ONE:
        return tensor
    return low.contiguous(tensor)


def _four_axes(tensor: Tensor) -> Tensor:
    missing = 4 - tensor.rank
    shape, strides = (ONE,) * missing + tensor.shape, (ZERO,) * missing + tensor.strides
    return replace(tensor, shape=shape, strides=strides, halo=())


def _strides(tensor: Tensor, shape: tuple[Dim, ...]) -> list[Dim]:
    """Strides of the first three axes under `shape`; 0 where the tensor is broadcast."""
    return [
        stride if dim == full else select_stride(dim, stride)
        for dim, full, stride in zip(tensor.shape[:3], shape[:3], tensor.strides[:3], strict=True)
    ]


def _steps(name: str, strides: list[Dim], itemsize: int, group: Dim) -> dict[str, Dim | int]:
    batch, head, position = strides
    return {
        f"{name}_b": batch * itemsize,
        f"{name}_h": head * group * itemsize,
        f"{name}_g": head * itemsize,
        f"{name}_s": position * itemsize,
    }


__all__ = ["KEY_BLOCK", "attention"]

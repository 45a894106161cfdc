"""Lowering of matrix products onto the dot kernel.

``packhorse.MatMul`` is ONNX MatMul (numpy semantics) with two more attributes: ``epilogue``, an
`Expr` of the product (input 0) and the node's inputs from the third on, and ``access``, how each of
those is read: ``column``, ``tile`` or ``scalar``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.codegen.expression import Expr
from engine.graph.dims import Dim, ceildiv, maximum, select_stride
from engine.graph.ir import Node, Value
from engine.kernels import pack as pack_kernel
from engine.kernels import product as product_kernel
from engine.plan.dot_call import Axes, DotCall, emit_dot, flat_depth, packed_weights
from engine.plan.lower.product import emit_product
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.packing import panel_vectors
from engine.plan.tensor import ONE, ZERO, Tensor, product


def epilogue_of(node: Node, first: int) -> tuple[Expr | None, list[tuple[str, Value]]]:
    """Epilogue of a fused node and its extra inputs, which stand from input `first` on."""
    extras = [value for value in node.inputs[first:] if value is not None]
    return node.attribute("epilogue"), list(zip(node.attribute("access", []), extras, strict=True))


def _require_float(*values: Value) -> None:
    for value in values:
        if value.dtype != np.float32:
            raise NoKernel(f"{value.name} is {value.dtype}; the dot kernel computes float32")
        if value.shape is None:
            raise NoKernel(f"the rank of {value.name} is unknown")


@lowers("MatMul", "packhorse.MatMul")
def matmul(node: Node, low: Lowering) -> None:
    """MatMul with packed weights, or with B packed per run where it is computed."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None
    assert b is not None
    if node.key == "MatMul" and str(out.dtype) in product_kernel.DTYPES:
        _wide(low, a, b, out)
        return
    _require_float(a, b, out)
    epilogue, extras = epilogue_of(node, 2)
    left = low.read(a)
    if left.rank == 1:
        left = _insert(left, 0)
    if left.strides[-1] != ONE:
        left = low.contiguous(left)
    if b.data is not None and b.data.ndim <= 2:
        target = low.write(out, dense=False)
        c = _insert(target, target.rank) if b.data.ndim == 1 else target
        c = _insert(c, c.rank - 1) if a.rank == 1 else c
        weights(low, b.data.reshape(len(b.data), -1), left, c, epilogue, extras, b.name)
        return
    right = low.read(b)
    if right.rank == 1:
        right = _insert(right, 1)
    target = low.write(out)
    c = _insert(target, target.rank) if b.rank == 1 else target
    c = _insert(c, c.rank - 1) if a.rank == 1 else c
    computed(low, left, right, c, epilogue, [(k, _operand(low, k, v)) for k, v in extras])


def _wide(low: Lowering, a: Value, b: Value, out: Value) -> None:
    """A product of another type than float32, by the kernel for these."""
    for value in (a, b):
        if value.dtype != out.dtype or value.shape is None:
            raise NoKernel(f"{value.name} is {value.dtype}, or of unknown rank")
    left, right, target = low.read(a), low.read(b), low.write(out)
    if right.rank == 1:
        right, target = _insert(right, 1), _insert(target, target.rank)
    if left.rank == 1:
        left, target = _insert(left, 0), _insert(target, target.rank - 1)
    emit_product(low, left, right, target)


@lowers("Gemm")
def gemm(node: Node, low: Lowering) -> None:
    """``alpha * A' B' + beta * C`` with the scaling and C in the epilogue."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None
    assert b is not None
    _require_float(a, b, out)
    bias = node.input(2)
    left = low.read(a)
    if node.attribute("transA", 0):
        left = left.permute((1, 0))
    if left.strides[-1] != ONE:
        left = low.contiguous(left)
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    value = Expr.input(0, "float32")
    if alpha != 1.0:
        value = Expr.of("mul", value, Expr.constant(alpha, "float32"))
    c = low.write(out)
    extras: list[tuple[str, Tensor]] = []
    if bias is not None and beta != 0.0:
        _require_float(bias)
        extras.append(_gemm_bias(low, bias, c))
        term = Expr.input(1, "float32")
        if beta != 1.0:
            term = Expr.of("mul", term, Expr.constant(beta, "float32"))
        value = Expr.of("add", value, term)
    epilogue = value if value.op != "input" else None
    if b.data is not None:
        matrix = b.data.T if node.attribute("transB", 0) else b.data
        _packed(low, matrix, left, c, epilogue, extras, b.name)
        return
    right = low.read(b)
    right = right.permute((1, 0)) if node.attribute("transB", 0) else right
    computed(low, left, right, c, epilogue, extras)


def _gemm_bias(low: Lowering, bias: Value, c: Tensor) -> tuple[str, Tensor]:
    """Access and tensor of Gemm's C, which broadcasts to [M, N]."""
    tensor = low.read(bias)
    while tensor.rank < 2:
        tensor = _insert(tensor, 0)
    rows, columns = tensor.shape
    if rows == ONE and columns == ONE:
        return "scalar", tensor
    if rows == ONE and columns == c.shape[1]:
        return "column", tensor
    strides = (select_stride(rows, tensor.strides[0]), select_stride(columns, tensor.strides[1]))
    spread = replace(tensor, shape=c.shape, strides=strides, halo=())
    if columns != c.shape[1] or strides[1] != ONE:
        spread = low.contiguous(spread)
    return "tile", spread


def weights(
    low: Lowering,
    matrix: np.ndarray,
    a: Tensor,
    c: Tensor,
    epilogue: Expr | None,
    extras: list[tuple[str, Value]],
    name: str,
) -> None:
    """Emit ``c = epilogue(a @ matrix)``; `matrix` [K, N] is packed now, once."""
    tensors = [(k, _operand(low, k, v)) for k, v in extras]
    _packed(low, matrix, a, c, epilogue, tensors, name)


def _operand(low: Lowering, access: str, value: Value) -> Tensor:
    """Tensor of an epilogue input; the kernel reads its last axis densely."""
    tensor = low.read(value)
    dense = access == "scalar" or tensor.strides[-1] == ONE
    return tensor if dense else low.contiguous(tensor)


def _packed(
    low: Lowering,
    matrix: np.ndarray,
    a: Tensor,
    c: Tensor,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
    name: str,
) -> None:
    depth, columns = matrix.shape
    vectors = panel_vectors(columns, low.target, depth)
    k_levels = flat_depth(Dim.of(depth))
    b = packed_weights(low, matrix[None], vectors * low.target.lanes(), k_levels, name)
    if c.rank > 4:
        a, c = a.view((product(a.shape[:-1]), a.shape[-1])), c.view((product(c.shape[:-1]), ONE))
    emit_dot(
        low,
        DotCall(
            a=Axes(a, a.strides[:-1], ()),
            b=b,
            c=Axes(c, c.strides[:-1], ()),
            rows=c.shape[:-1],
            batch=(),
            b_batch=(),
            columns=Dim.of(columns),
            depth=k_levels,
            vectors=vectors,
            pairs=low.pairs,
            epilogue=epilogue,
            extras=[_extra(access, tensor, c) for access, tensor in extras],
        ),
    )


def _extra(access: str, tensor: Tensor, c: Tensor) -> tuple[str, Axes]:
    if access != "tile":
        return access, Axes(tensor, (), ())
    return access, Axes(tensor, tensor.strides[:-1], ())


def computed(
    low: Lowering,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    epilogue: Expr | None,
    extras: list[tuple[str, Tensor]],
) -> None:
    """Emit ``c = epilogue(a @ b)`` for computed `b`, which is packed per run."""
    if ONE not in b.strides[-2:]:
        b = low.contiguous(b)
    lead = c.rank - 2
    while a.rank < c.rank:
        a = _insert(a, 0)
    while b.rank < c.rank:
        b = _insert(b, 0)
    packed, vectors = pack_computed(low, b)
    axes = [
        (
            c.shape[i],
            select_stride(a.shape[i], a.strides[i]),
            select_stride(b.shape[i], packed.strides[i]),
            c.strides[i],
        )
        for i in range(lead)
    ]
    merged = _merge(axes)
    if len(merged) > 2:
        raise NoKernel("the batch axes of this product do not merge into two")
    tiles = [
        (access, Axes(t, (t.strides[-2],) if access == "tile" else (), ())) for access, t in extras
    ]
    if lead and any(access == "tile" for access, _ in tiles):
        raise NoKernel("a full-size epilogue input of a batched product is not supported")
    emit_dot(
        low,
        DotCall(
            a=Axes(a, (a.strides[-2],), tuple(axis[1] for axis in merged)),
            b=packed,
            c=Axes(c, (c.strides[-2],), tuple(axis[3] for axis in merged)),
            rows=(c.shape[-2],),
            batch=tuple(axis[0] for axis in merged),
            b_batch=tuple(axis[2] for axis in merged),
            columns=c.shape[-1],
            depth=flat_depth(a.shape[-1]),
            vectors=vectors,
            epilogue=epilogue,
            extras=tiles,
        ),
    )


def pack_computed(low: Lowering, b: Tensor) -> tuple[Tensor, int]:
    """Panels of a computed B [batch..., K, N]; the result has B's batch axes, then one for data."""
    depth, columns = b.shape[-2:]
    vectors = (
        panel_vectors(columns.value, low.target)
        if columns.is_constant
        else low.target.panel_vectors[-1]
    )
    width = vectors * low.target.lanes()
    panels = maximum(ceildiv(columns, width), 1)
    size = panels * depth * width
    packed = low.temp(np.float32, (*b.shape[:-2], size), "packed")
    axes = _merge([(b.shape[i], b.strides[i], packed.strides[i]) for i in range(b.rank - 2)])
    if len(axes) > 2:
        raise NoKernel("the batch axes of this product do not merge into two")
    lengths = [ONE, ONE, *(axis[0] for axis in axes)]
    strides = [ZERO, ZERO, *(axis[1] for axis in axes)]
    spec = pack_kernel.spec(vectors, "n" if b.strides[-1] == ONE else "k")
    low.call(
        spec,
        items=product(b.shape[:-2]) * panels,
        cost=depth * width // 8 + 20,
        writes="packed",
        b=b,
        packed=packed,
        n=columns,
        k=depth,
        batch1=lengths[-1],
        b_b0=strides[-2] * 4,
        b_b1=strides[-1] * 4,
        b_k=b.strides[-2] * 4,
        b_n=b.strides[-1] * 4,
        panels=panels,
        panel=depth * (width * 4),
        packed_batch=size * 4,
    )
    return packed, vectors


def _merge(axes: Sequence[tuple[Dim, ...]]) -> list[tuple[Dim, ...]]:
    """Adjacent axes (length, strides...) merged where every stride steps evenly through both."""
    merged: list[tuple[Dim, ...]] = []
    for length, *strides in axes:
        if length == ONE:
            continue
        if merged and all(
            outer == inner * length for outer, inner in zip(merged[-1][1:], strides, strict=True)
        ):
            merged[-1] = (merged[-1][0] * length, *strides)
        else:
            merged.append((length, *strides))
    return merged


def _insert(tensor: Tensor, axis: int) -> Tensor:
    """The tensor with an axis of length 1 at `axis`."""
    shape, strides = list(tensor.shape), list(tensor.strides)
    shape.insert(axis, ONE)
    strides.insert(axis, ONE if axis == len(tensor.shape) else ZERO)
    return replace(tensor, shape=tuple(shape), strides=tuple(strides), halo=())

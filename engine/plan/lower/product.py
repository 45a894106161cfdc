"""Lowering of matrix products of float64 and of integers; `dot` has those of float32."""

from __future__ import annotations

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import ceildiv, select_stride
from engine.kernels import product as kernel
from engine.kernels.odometer import axis_names
from engine.plan.lower.views import broadcast_view
from engine.plan.lowering import Lowering
from engine.plan.tensor import ONE, ZERO, Tensor, product


def emit_product(low: Lowering, a: Tensor, b: Tensor, c: Tensor) -> None:
    """Emit ``c = a @ b`` for tensors of rank 2 and more, whose batch axes broadcast."""
    if b.strides[-1] != ONE:
        b = low.contiguous(b)
    lead = c.rank - 2
    if lead > kernel.BATCH:
        a, b = (low.contiguous(broadcast_view(t, (*c.shape[:-2], *t.shape[-2:]))) for t in (a, b))
        batch = product(c.shape[:-2])
        a, b, c = (t.view((batch, *t.shape[-2:])) for t in (a, b, c))
        lead = 1
    size = c.itemsize
    words = dict.fromkeys(axis_names("batch", kernel.BATCH).split(), ONE)
    for name, tensor in zip("aby", (a, b, c), strict=True):
        words |= dict.fromkeys(axis_names(f"{name}_batch", kernel.BATCH).split(), ZERO)
        for axis in range(tensor.rank - 2):
            place = kernel.BATCH - (tensor.rank - 2) + axis
            stride = select_stride(tensor.shape[axis], tensor.strides[axis])
            words[f"{name}_batch{place}"] = stride * size
    for axis in range(lead):
        words[f"batch{kernel.BATCH - lead + axis}"] = c.shape[axis]
    dtype = str(c.dtype)
    width = kernel.tile_width(low.target, dtype)
    rows, columns, depth = *c.shape[-2:], a.shape[-1]
    row_blocks, column_blocks = ceildiv(rows, kernel.ROWS), ceildiv(columns, width)
    low.call(
        KernelSpec.of(kernel.PRODUCT.name, dtype=dtype),
        items=product(c.shape[:-2]) * row_blocks * column_blocks,
        cost=depth * (kernel.ROWS * kernel.VECTORS) // 2 + 20,
        writes="y",
        a=a,
        b=b,
        y=c,
        row_blocks=row_blocks,
        column_blocks=column_blocks,
        rows=rows,
        columns=columns,
        depth=depth,
        a_row=a.strides[-2] * size,
        a_step=a.strides[-1] * size,
        b_row=b.strides[-2] * size,
        y_row=c.strides[-2] * size,
        **words,
    )

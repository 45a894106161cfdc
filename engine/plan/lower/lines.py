"""Lowering of CumSum, ReverseSequence, Trilu, Det and EyeLike."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import ceildiv
from engine.graph.ir import Node
from engine.kernels import determinant, lines
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked, constants, integers, shape_of
from engine.plan.lower.padding import repeated_bytes
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ZERO, product


@lowers("CumSum", "CumProd")
def lower_cumsum(node: Node, low: Lowering) -> None:
    """Running sums or products along an axis, either way, with or without the element itself."""
    checked(node)
    dtype = str(node.outputs[0].dtype)
    if dtype not in lines.CUMSUM_TYPES:
        raise NoKernel(f"{node.op} of {dtype}")
    axes = integers(node, 1, "axis")
    if axes is None or not shape_of(node.inputs[0]):
        raise NoKernel(f"{node.op} without an axis")
    source = low.read_dense(node.inputs[0])
    result = low.write(node.outputs[0])
    axis = constants(axes, "axis")[0] % source.rank
    outer, inner = product(source.shape[:axis]), product(source.shape[axis + 1 :])
    blocks = ceildiv(inner, low.target.lanes(source.itemsize))
    low.call(
        KernelSpec.of(
            lines.CUMSUM.name,
            dtype=dtype,
            product=node.op == "CumProd",
            exclusive=bool(node.attribute("exclusive", 0)),
            reverse=bool(node.attribute("reverse", 0)),
        ),
        items=outer * blocks,
        cost=source.shape[axis] * 2,
        writes="y",
        x=source,
        y=result,
        outer=outer,
        length=source.shape[axis],
        inner=inner,
        blocks=blocks,
    )


@lowers("ReverseSequence")
def lower_reverse(node: Node, low: Lowering) -> None:
    """The first elements of each sequence in reverse order, their number given per sequence."""
    checked(node)
    lengths = node.inputs[1]
    if lengths is None or str(lengths.dtype) != "int64":
        raise NoKernel("lengths of sequences must be of type int64")
    batch, time = int(node.attribute("batch_axis", 1)), int(node.attribute("time_axis", 0))
    if {batch, time} != {0, 1}:
        raise NoKernel(f"batch axis {batch} and time axis {time}")
    source, numbers = low.read_dense(node.inputs[0]), low.read_dense(lengths)
    result = low.write(node.outputs[0])
    row = product(source.shape[2:]) * source.itemsize
    words = {
        f"{name}_{axis}": tensor.strides[position] * tensor.itemsize
        for name, tensor in (("x", source), ("y", result))
        for axis, position in (("batch", batch), ("time", time))
    }
    low.call(
        KernelSpec.of(lines.REVERSE.name),
        items=source.shape[0] * source.shape[1],
        cost=row // 8 + 2,
        writes="y",
        x=source,
        lengths=numbers,
        y=result,
        batch=source.shape[batch],
        time=source.shape[time],
        row_bytes=row,
        **words,
    )


@lowers("Trilu")
def lower_trilu(node: Node, low: Lowering) -> None:
    """The upper or lower triangle of each matrix."""
    checked(node)
    given = node.input(1)
    known = (ZERO,) if given is None else known_dims(given)
    source = low.read_dense(node.inputs[0])
    diagonal: dict[str, Any] = {} if known else {"k": low.read_dense(given)}
    result = low.write(node.outputs[0])
    rows, columns = source.shape[-2:]
    low.call(
        KernelSpec.of(
            lines.TRIANGLE.name,
            itemsize=source.itemsize,
            upper=bool(node.attribute("upper", 1)),
            read=not known,
        ),
        items=product(source.shape[:-1]),
        cost=columns * source.itemsize // 8 + 4,
        writes="y",
        x=source,
        y=result,
        rows=rows,
        columns=columns,
        diagonal=known[0] if known else ZERO,
        x_row=columns * source.itemsize,
        **diagonal,
    )


@lowers("Det")
def lower_determinant(node: Node, low: Lowering) -> None:
    """Determinants of matrices [..., n, n]."""
    checked(node)
    source = low.read_dense(node.inputs[0])
    if str(source.dtype) not in determinant.DTYPES or source.rank < 2:
        raise NoKernel(f"Det of {source.dtype} of rank {source.rank}")
    size = source.shape[-1]
    low.call(
        KernelSpec.of(determinant.DETERMINANT.name, dtype=str(source.dtype)),
        items=product(source.shape[:-2]),
        cost=size * size * size // 6 + size * 10,
        writes="y work",
        x=source,
        y=low.write(node.outputs[0]),
        work=low.temp(source.dtype, source.shape, "eliminated"),
        size=size,
    )


@lowers("EyeLike")
def lower_eye(node: Node, low: Lowering) -> None:
    """Ones on a diagonal of a matrix of zeros."""
    checked(node)
    result = low.write(node.outputs[0])
    rows, columns = result.shape
    low.call(
        KernelSpec.of(lines.EYE.name, itemsize=result.itemsize),
        items=rows,
        cost=columns * result.itemsize // 8 + 4,
        writes="y",
        y=result,
        columns=columns,
        diagonal=int(node.attribute("k", 0)),
        one=repeated_bytes(np.ones(1, result.dtype)),
    )

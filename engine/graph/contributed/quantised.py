"""Quantised operators: dequantise, compute in float32, quantise again.

For scale s and zero point z, ``D(q) = (q - z) * s`` and ``Q(x) = saturate(round(x / s) + z)``.
Every ``QLinear*`` operator f is ``Q(f(D(..)))``. Where the runtime that these operators come from
adds in integers, results next to a rounding boundary may differ by one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.body import Body, Unsupported, constant_of, dtype_of, rank_of
from engine.graph.contributed.products import channels_first, channels_last, window
from engine.graph.contributed.registry import expands
from engine.graph.ir import AnyArray, Value


def _real(b: Body, first: int) -> Value:
    """Inputs `first` (data), then scale and zero point, dequantised."""
    return b("DequantizeLinear", b.input(first), b.input(first + 1), b.optional(first + 2))


def _give(b: Body, value: Value, scale: int, dtype: Any) -> None:
    """Quantise `value` by inputs `scale` and the one after it; without one the type is `dtype`."""
    zero = b.optional(scale + 1)
    if zero is None:
        zero = b.constant(np.zeros((), dtype))
    b.give(0, b("QuantizeLinear", value, b.input(scale), zero))


@expands("QuantizeLinear", "DequantizeLinear")
def _linear(b: Body) -> None:
    """The standard operators, which have the wider types since opset 21."""
    attributes = {"axis": b.attribute("axis", 1)} if rank_of(b.input(1)) else {}
    b.give(0, b(b.node.op, *b.node.inputs, **attributes))


@expands("QLinearAdd", "QLinearMul")
def _binary(b: Body) -> None:
    """``Q(D(A) + D(B))`` and ``Q(D(A) * D(B))``."""
    operator = b.node.op.removeprefix("QLinear")
    _give(b, b(operator, _real(b, 0), _real(b, 3)), 6, dtype_of(b.input(0)))


@expands("QLinearSigmoid", "QLinearLeakyRelu")
def _activation(b: Body) -> None:
    """``Q(f(D(X)))``."""
    operator = b.node.op.removeprefix("QLinear")
    attributes = {"alpha": b.attribute("alpha", 0.01)} if operator == "LeakyRelu" else {}
    _give(b, b(operator, _real(b, 0), **attributes), 3, dtype_of(b.input(0)))


@expands("QLinearSoftmax")
def _softmax(b: Body) -> None:
    """``Q(Softmax(D(X)))``, over all axes from `axis` on where `opset` is below 13."""
    x = _real(b, 0)
    rank = rank_of(x)
    axis = int(b.attribute("axis", -1)) % max(rank, 1)
    if int(b.attribute("opset", 13)) >= 13 or axis == rank - 1:
        y = b("Softmax", x, axis=axis)
    else:
        flat = b("Softmax", b("Flatten", x, axis=axis), axis=1)
        y = b("Reshape", flat, b("Shape", x))
    _give(b, y, 3, dtype_of(b.input(0)))


@expands("QLinearAveragePool", "QLinearGlobalAveragePool")
def _average_pool(b: Body) -> None:
    """``Q(AveragePool(D(X)))``; images may be channels-last."""
    operator = b.node.op.removeprefix("QLinear")
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    x, last = _real(b, 0), bool(b.attribute("channels_last", 0))
    y = b(operator, channels_first(b, x) if last else x, **window(b, *names))
    _give(b, channels_last(b, y) if last else y, 3, dtype_of(b.input(0)))


@expands("QLinearReduceMean")
def _reduce_mean(b: Body) -> None:
    """``Q(ReduceMean(D(X)))``."""
    axes = b.attribute("axes")
    axes = None if axes is None else b.ints(*axes)
    y = b("ReduceMean", _real(b, 0), axes, keepdims=int(b.attribute("keepdims", 1)))
    _give(b, y, 3, dtype_of(b.input(0)))


@expands("QLinearConcat")
def _concat(b: Body) -> None:
    """``Q(Concat(D(X0), D(X1), ..))``; the inputs come in threes after scale and zero point."""
    parts = [_real(b, first) for first in range(2, len(b.node.inputs), 3)]
    _give(b, b("Concat", *parts, axis=int(b.attribute("axis"))), 0, dtype_of(b.input(2)))


@expands("QLinearWhere")
def _where(b: Body) -> None:
    """``Q(Where(c, D(X), D(Y)))``."""
    _give(b, b("Where", b.input(0), _real(b, 1), _real(b, 4)), 7, dtype_of(b.input(1)))


@expands("QLinearConv")
def _conv(b: Body) -> None:
    """The standard operator, of channels-last images where the attribute says so."""
    inputs, last = list(b.node.inputs), bool(b.attribute("channels_last", 0))
    if last:
        inputs[0] = channels_first(b, b.input(0))
    y = b("QLinearConv", *inputs, **window(b))
    b.give(0, channels_last(b, y) if last else y)


@expands("QGemm")
def _gemm(b: Body) -> None:
    """``alpha * D(A)' @ D(B)' + C * (s_A * s_B * alpha)``, quantised if a scale is given.

    C are integers in steps of the product of the scales.
    """
    names = ("transA", "transB")
    turned: dict[str, Any] = {name: int(b.attribute(name, 0)) for name in names}
    alpha = float(b.attribute("alpha", 1.0))
    step = b("Mul", b("Mul", b.input(1), b.input(4)), b.like(alpha, b.input(1)))
    a = _integers(b, 0, 2)
    w = _integers(b, 3, 5, columns=not turned["transB"])
    y = b("Mul", b("Gemm", a, w, **turned), step)
    if b.optional(6) is not None:
        y = b.add(y, b("Mul", b.cast(b.input(6), np.float32), step))
    if b.optional(7) is None:
        b.give(0, y)
    else:
        _give(b, y, 7, dtype_of(b.input(0)))


def _integers(b: Body, data: int, zero: int, columns: bool = True) -> Value:
    """Input `data` as float32 without its zero point, which may be one per column."""
    value = b.cast(b.input(data), np.float32)
    point = b.optional(zero)
    if point is None:
        return value
    point = b.cast(point, np.float32)
    if not columns and rank_of(point) == 1:
        point = b("Unsqueeze", point, b.ints(1))
    return b("Sub", value, point)


@expands("MatMulIntegerToFloat")
def _integer_product(b: Body) -> None:
    """``((A - z_A) @ (B - z_B)) * (s_A * s_B) + bias``."""
    y = b("MatMul", _integers(b, 0, 4), _integers(b, 1, 5))
    b.give(0, b.add(b("Mul", y, b("Mul", b.input(2), b.input(3))), b.optional(6)))


@expands("DynamicQuantizeMatMul")
def _dynamic_product(b: Body) -> None:
    """As MatMulIntegerToFloat, of A quantised to uint8 over its own range."""
    quantised, scale, zero = b.several("DynamicQuantizeLinear", 3, b.input(0))
    a = b("Sub", b.cast(quantised, np.float32), b.cast(zero, np.float32))
    y = b("MatMul", a, _integers(b, 1, 3))
    b.give(0, b.add(b("Mul", y, b("Mul", scale, b.input(2))), b.optional(4)))


@expands("MatMulInteger16")
def _wide_product(b: Body) -> None:
    """The product of 16-bit integers in 32 bits."""
    b.give(0, b("MatMul", *(b.cast(b.input(i), np.int32) for i in (0, 1))))


@expands("MatMulNBits")
def _block_product(b: Body) -> None:
    """``A @ W + bias`` with W [K, N] from integers of 2, 4 or 8 bits, dequantised when read.

    B [N, blocks, bytes] holds each column's K in blocks, low bits first; every block has a scale
    and a zero point, which is the middle of the range where none are given.
    """
    bits, size = int(b.attribute("bits", 4)), int(b.attribute("block_size"))
    depth, columns = int(b.attribute("K")), int(b.attribute("N"))
    if bits not in (2, 4, 8):
        raise Unsupported(f"weights of {bits} bits are not supported")
    if b.optional(4) is not None:
        groups = constant_of(b.input(4), "its g_idx").astype(np.int64)[:depth]
    else:
        groups = np.arange(depth) // size
    blocks = -(-depth // size)
    packed = constant_of(b.input(1), "its weights").reshape(columns, -1)
    scales = constant_of(b.input(2), "its scales").reshape(columns, blocks)
    weights = unpack(packed, bits)[:, :depth].astype(np.float32)
    zeros: AnyArray = np.full((columns, blocks), 1 << (bits - 1), np.float32)
    if b.optional(3) is not None:
        given = constant_of(b.input(3), "its zero points")
        if given.dtype == np.uint8:
            given = unpack(given.reshape(columns, -1), bits)[:, :blocks]
        zeros = given.reshape(columns, blocks).astype(np.float32)
    matrix = (weights - zeros[:, groups]) * scales.astype(np.float32)[:, groups]
    w = b.constant(np.ascontiguousarray(matrix.T).astype(scales.dtype))
    b.give(0, b.add(b("MatMul", b.input(0), w), b.optional(5)))


def unpack(packed: AnyArray, bits: int) -> AnyArray:
    """Unsigned integers of `bits` bits from the bytes of each row, low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], -1)


@expands("DynamicQuantizeLSTM")
def _lstm(b: Body) -> None:
    """LSTM with dequantised weights, which come as [directions, inputs, 4 * hidden].

    The inputs of the products stay float32, where the operator's own runtime rounds them to 8 bits.
    """
    weights = []
    for data, scale, zero in ((1, 8, 9), (2, 10, 11)):
        steps = b.input(scale)
        real = b.cast(b.input(data), np.float32)
        point = b.cast(b.input(zero), np.float32)
        if rank_of(steps) == 2:
            steps, point = (b("Unsqueeze", v, b.ints(1)) for v in (steps, point))
        elif rank_of(steps) == 1:
            steps, point = (b("Unsqueeze", v, b.ints(1, 2)) for v in (steps, point))
        weights.append(b.transpose(b("Mul", b("Sub", real, point), steps), 0, 2, 1))
    inputs = [b.input(0), *weights, *(b.optional(i) for i in range(3, 8))]
    for index, value in enumerate(b.several("LSTM", 3, *inputs, **b.node.attributes)):
        b.give(index, value)

"""Fourier transforms of short known length are products with constant matrices.

- ``DFT(x)[k] = sum over j of x[j] exp(-+ 2 pi i j k / n)``: complex numbers lie as pairs, so that
  it is one real product, of ``[..., n]`` (real) or ``[..., 2n]`` with a matrix of n or 2n rows. An
  input longer than n loses its end, a shorter one is continued by zeros: rows that are left out.
- ``STFT(x) = Frames(x) W``: frames are a window of the signal with overlapping rows, which a
  product reads where they lie; a constant window function scales the rows of the matrix.

The matrices are computed in float64 and rounded. Preconditions: float32; length and frame step are
known; the length is at most `_LONGEST`. Other transforms have a kernel of their own
(`engine.kernels.fourier`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.ir import OURS, AnyArray, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, scalar
from engine.graph.passes.writer import NodeWriter

_LONGEST: Final = 64
"""Longest transform that is a product. On one core of a Xeon of the Cascade Lake generation 64 rows
of 32 numbers take 6.9 us as a product and 10.8 us as transforms, of 64 numbers 20 and 19 us, of 128
numbers 42 and 33 us, of 512 numbers 253 and 65 us; 100 frames of 1024 take 2.8 and 0.4 ms."""


def fourier(graph: Graph) -> PassReport:
    """Rewrite them in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            rule = _RULES.get(node.key)
            reason = rule(rewriter, node) if rule is not None else None
            if reason:
                notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("fourier", changes, notes)


def matrix(rows: int, length: int, bins: int, parts: int, inverse: bool) -> AnyArray:
    """float32 [rows * parts, bins * 2]: from real (one part) or complex numbers to complex ones."""
    turns = np.outer(np.arange(rows), np.arange(bins)) % length * (2 * np.pi / length)
    sine = np.sin(turns) if inverse else -np.sin(turns)
    scale = 1 / length if inverse else 1.0
    found = np.empty((rows, parts, bins, 2))
    found[:, 0, :, 0], found[:, 0, :, 1] = np.cos(turns), sine
    if parts == 2:
        found[:, 1, :, 0], found[:, 1, :, 1] = -sine, np.cos(turns)
    return (found * scale).reshape(rows * parts, bins * 2).astype(np.float32)


def _parts(x: Value | None) -> int:
    """1 for real numbers, 2 for complex ones, 0 where kernels do not take the input."""
    if x is None or x.shape is None or x.dtype != np.float32 or len(x.shape) < 2:
        return 0
    last = x.shape[-1]
    return last.value if last.is_constant and last.value in (1, 2) else 0


def _length(value: Value | None) -> int | None:
    """A known positive integer."""
    found = scalar(value)
    if found is None and value is not None and value.dims and value.dims[0].is_constant:
        found = value.dims[0].value
    return int(found) if found is not None and found > 0 else None


def _transform(rewriter: Rewriter, node: Node) -> str | None:
    x = node.inputs[0]
    parts = _parts(x)
    if not parts or x is None or x.shape is None:
        return "it is not of float32, or real or complex is not known"
    rank = len(x.shape)
    if node.version < 20:
        axis = int(node.attribute("axis", 1))
    elif node.input(2) is not None:
        given = scalar(node.input(2))
        if given is None:
            return "the axis is not known"
        axis = int(given)
    else:
        axis = -2
    axis %= rank
    inverse = bool(node.attribute("inverse", 0))
    onesided = bool(node.attribute("onesided", 0))
    own = x.shape[axis]
    if axis == rank - 1 or not own.is_constant or not own.value:
        return "the length of its axis is not known"
    length = own.value if node.input(1) is None else _length(node.input(1))
    if length is None:
        return "its length is not known"
    if onesided and inverse:
        return "it makes real numbers of half a spectrum"
    bins = length // 2 + 1 if onesided else length
    if max(length, own.value) > _LONGEST:
        return f"a transform of length {length} is no product"
    weights = matrix(own.value, length, bins, parts, inverse)
    weights[min(length, own.value) * parts :] = 0
    writer = NodeWriter(rewriter, node)
    order = [a for a in range(rank) if a not in (axis, rank - 1)] + [axis, rank - 1]
    moved = x if axis == rank - 2 else writer.emit("Transpose", x, perm=order)
    lead = [0] * (rank - 2)
    flat = writer.emit("Reshape", moved, [*lead, own.value * parts], version=14)
    product = writer.emit("MatMul", flat, writer.constant(weights))
    into = list(node.outputs)
    if axis == rank - 2:
        writer.emit("Reshape", product, [*lead, bins, 2], version=14, into=into)
    else:
        pairs = writer.emit("Reshape", product, [*lead, bins, 2], version=14)
        back = [order.index(a) for a in range(rank)]
        writer.emit("Transpose", pairs, into=into, perm=back)
    writer.finish()
    return None


def _short_time(rewriter: Rewriter, node: Node) -> str | None:
    signal, window = node.inputs[0], node.input(2)
    step = _length(node.inputs[1])
    if _parts(signal) != 1 or signal is None or signal.shape is None or len(signal.shape) != 3:
        return "its signal is not real and of float32"
    length = _length(node.input(3))
    if length is None and window is not None and window.shape and window.shape[0].is_constant:
        length = window.shape[0].value
    if step is None or length is None:
        return "its step or length is not known"
    bins = length // 2 + 1 if node.attribute("onesided", 1) else length
    if length > _LONGEST:
        return f"a transform of length {length} is no product"
    weights = matrix(length, length, bins, 1, False)
    if window is not None and window.data is not None:
        if window.data.shape != (length,):
            return "its window is of another length"
        weights = (weights.astype(np.float64) * window.data[:, None]).astype(np.float32)
    writer = NodeWriter(rewriter, node)
    rows = writer.emit("Squeeze", signal, [2])
    (frames,) = writer.several("Frames", 1, rows, version=1, domain=OURS, length=length, step=step)
    if window is not None and window.data is None:
        frames = writer.emit("Mul", frames, window, version=14)
    product = writer.emit("MatMul", frames, writer.constant(weights))
    writer.emit("Reshape", product, [0, 0, bins, 2], version=14, into=list(node.outputs))
    writer.finish()
    return None


_RULES: Final = {"DFT": _transform, "STFT": _short_time}

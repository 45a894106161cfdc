"""Operators that copy whole windows: concatenation, tiling, blocks of depth and space, fills."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv
from engine.graph.ir import Graph, Node, Value
from engine.kernels import words
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.operands import axis_of, checked, integers, shape_of
from engine.plan.lower.views import broadcast_view
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ZERO, Tensor


def request_windows(graph: Graph, low: Lowering) -> None:
    """Let values that only a Concat reads be written straight into its output.

    Sizes of the output must be known from the start; what a fallback node makes is copied.
    """
    outside = (*graph.inputs, *graph.captures)
    symbols = {s for value in outside for dim in value.shape or () for s in dim.symbols}
    readers = graph.consumers()
    kept = {id(value) for value in graph.outputs}
    made = {id(value) for node in graph.nodes for value in node.outputs}
    for node in graph.nodes:
        if node.key != "Concat" or not all(_sized(v, symbols) for v in _values(node)):
            continue
        for value in node.inputs:
            if value is None or value.data is not None or value.dims is not None:
                continue
            if id(value) not in made:
                continue
            if len(readers[id(value)]) == 1 and id(value) not in kept:
                low.joined[id(value)] = node


def _values(node: Node) -> list[Value | None]:
    return [*node.inputs, *node.outputs]


def _sized(value: Value | None, symbols: set[str]) -> bool:
    if value is None or value.dtype is None or value.shape is None:
        return False
    return all(dim.symbols <= symbols for dim in value.shape)


def windows(node: Node, result: Tensor) -> list[Tensor]:
    """The window of a Concat's output that each input fills."""
    axis = axis_of(node, result.rank, 1)
    start = ZERO
    found: list[Tensor] = []
    for value in node.inputs:
        length = shape_of(value)[axis]
        found.append(result.window(axis, start, length))
        start = start + length
    return found


def window_of(low: Lowering, value: Value) -> Tensor | None:
    """Where `value` lies in the output of the Concat that reads it, None where none does."""
    node = low.joined.get(id(value))
    if node is None:
        return None
    result = low.write(node.outputs[0], dense=False)
    return windows(node, result)[node.inputs.index(value)]


@lowers("Concat")
def lower_concat(node: Node, low: Lowering) -> None:
    """Each input is copied into its window of the output, unless it was written there."""
    checked(node)
    result = low.write(node.outputs[0], dense=False)
    for value, window in zip(node.inputs, windows(node, result), strict=True):
        source = low.read(value)
        if source.buffer is not window.buffer or source.offset != window.offset:
            emit_copy(low, source, window)


@lowers("Tile")
def lower_tile(node: Node, low: Lowering) -> None:
    """Repetition: the output as [r0, d0, r1, d1, ...] takes the input with stride 0 along r."""
    checked(node)
    repeats = integers(node, 1, "repeats")
    if repeats is None or node.version < 6:
        raise NoKernel("Tile of opset 1 gives one axis and one count")
    source = low.read(node.inputs[0])
    result = low.write(node.outputs[0])
    pairs = [n for pair in zip(repeats, source.shape, strict=True) for n in pair]
    strides = [n for stride in source.strides for n in (ZERO, stride)]
    repeated = replace(source, shape=tuple(pairs), strides=tuple(strides), halo=())
    emit_copy(low, repeated, result.view(pairs))


@lowers("DepthToSpace", "SpaceToDepth")
def lower_blocks(node: Node, low: Lowering) -> None:
    """Blocks of channels become blocks of pixels, or back."""
    checked(node)
    block = Dim.of(int(node.attribute("blocksize")))
    source = low.read_dense(node.inputs[0])
    result = low.write(node.outputs[0])
    wide, deep = (source, result) if node.op == "SpaceToDepth" else (result, source)
    n, c, h, w = (*wide.shape[:2], *deep.shape[2:])
    pixels = wide.view((n, c, h, block, w, block))
    if node.attribute("mode", "DCR") == "DCR":
        depth = deep.view((n, block, block, c, h, w)).permute((0, 3, 4, 1, 5, 2))
    else:
        depth = deep.view((n, c, block, block, h, w)).permute((0, 1, 4, 2, 5, 3))
    if node.op == "SpaceToDepth":
        emit_copy(low, pixels, depth)
    else:
        emit_copy(low, depth, pixels)


@lowers("ConstantOfShape")
def lower_fill(node: Node, low: Lowering) -> None:
    """One element everywhere."""
    checked(node)
    integers(node, 0, "shape")
    value = np.asarray(node.attribute("value", np.zeros(1, np.float32))).reshape(1)
    result = low.write(node.outputs[0])
    element = low.constant(value, "fill").view(())
    emit_copy(low, broadcast_view(element, result.shape), result)


@lowers("Range")
def lower_range(node: Node, low: Lowering) -> None:
    """Equally spaced integers whose bounds are known."""
    checked(node)
    parts = [integers(node, index, name) for index, name in enumerate(("start", "limit", "delta"))]
    dtype = node.outputs[0].dtype
    assert dtype is not None
    if dtype.kind not in "iu":
        raise NoKernel(f"Range of {dtype} with bounds known only at run time")
    result = low.write(node.outputs[0])
    start, step = (part[0] if part else ZERO for part in (parts[0], parts[2]))
    low.call(
        KernelSpec.of(words.RAMP.name, itemsize=result.itemsize),
        items=ceildiv(result.size, words.CHUNK_ELEMENTS),
        cost=words.CHUNK_ELEMENTS // 2,
        writes="y",
        y=result,
        start=start,
        step=step,
        size=result.size,
    )

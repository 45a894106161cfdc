"""Lowering of element-wise operators, single or fused, to one kernel call each.

Every input is seen under the output's shape: an axis it is broadcast along has stride 0. Where it
is not known whether an axis has length 1, `select_stride` decides at bind. Neighbouring axes are
merged wherever all tensors allow it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from engine.codegen.expression import Expr, to_json
from engine.codegen.kernel import KernelSpec
from engine.codegen.onnx_expression import ELEMENTWISE_OPERATORS, from_node
from engine.codegen.scalar_operations import TRANSCENDENTAL
from engine.graph.dims import Dim, ceildiv, maximum, minimum, select_stride
from engine.graph.ir import Node
from engine.kernels import elementwise
from engine.kernels.elementwise import TILE, lanes_for, outer_rank
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, ZERO, Tensor, product

_HEAVY_CYCLES: Final = {"div": 8, "sqrt": 8, "reciprocal": 8, "mod": 40, "fmod": 40, "pow": 90}
"""Rough cycles per vector; other operations of `TRANSCENDENTAL` count 25, the rest 1."""


@dataclass(frozen=True)
class _Axis:
    """One merged axis: its length, and the stride in elements of each tensor along it."""

    length: Dim
    strides: tuple[Dim, ...]


@lowers(*ELEMENTWISE_OPERATORS)
def lower_operator(node: Node, low: Lowering) -> None:
    """A single ONNX operator."""
    expr = from_node(node)
    if isinstance(expr, str):
        raise NoKernel(expr)
    _lower(node, low, expr)


@lowers("packhorse.Elementwise")
def lower_fused(node: Node, low: Lowering) -> None:
    """A fused chain; attribute `expression` over the node's inputs."""
    _lower(node, low, node.attribute("expression"))


def _lower(node: Node, low: Lowering, expr: Expr) -> None:
    output = node.outputs[0]
    if output.shape is None:
        raise NoKernel(f"the rank of {output.name} is unknown")
    used = expr.inputs
    for operand in used:
        value = node.inputs[int(operand.value or 0)]
        if value is None or value.shape is None:
            raise NoKernel(f"the rank of input {operand.value} is unknown")
        if len(value.shape) > len(output.shape):
            raise NoKernel(f"input {operand.value} has more axes than the result")
    sources = [low.read(node.inputs[int(operand.value or 0)]) for operand in used]
    if expr.op == "input" and sources[0].shape == output.shape:
        low.alias(output, sources[0])
        return
    places = {int(x.value or 0): Expr.input(i, x.dtype) for i, x in enumerate(used)}
    emit_elementwise(low, expr.substitute(places), sources, low.write(output, dense=False))


def emit_elementwise(low: Lowering, expr: Expr, sources: list[Tensor], target: Tensor) -> None:
    """Emit ``target = expr(sources)``; sources broadcast to the target's shape."""
    windows = [target, *(_broadcast(source, target.shape) for source in sources)]
    axes = _merged(windows)
    if not axes or axes[-1].strides[0] != ONE:
        axes.append(_Axis(ONE, (ONE, *(ZERO for _ in sources))))
    inner = axes.pop()
    row = axes.pop() if axes else _Axis(ONE, tuple(ZERO for _ in windows))
    rank = outer_rank(len(axes))
    modes = [_mode(stride) for stride in inner.strides[1:]]
    tile_columns = minimum(maximum(inner.length, 1), TILE)
    tile_rows = maximum(TILE // maximum(inner.length, 1), 1)
    tiles = (ceildiv(row.length, tile_rows), ceildiv(inner.length, tile_columns))
    words: dict[str, Dim] = {}
    for position in range(rank):
        words[f"d{position}"] = axes[position].length if position < len(axes) else ONE
    names = ["y0", *(f"x{i}" for i in range(len(sources)))]
    for i, (name, window) in enumerate(zip(names, windows, strict=True)):
        for position in range(rank):
            stride = axes[position].strides[i] if position < len(axes) else ZERO
            words[f"{name}_{position}"] = stride * window.itemsize
        words[f"{name}_row"] = row.strides[i] * window.itemsize
        if i and modes[i - 1] == "g":
            words[f"{name}_column"] = inner.strides[i] * window.itemsize
    spec = KernelSpec.of(
        elementwise.ELEMENTWISE.name,
        expressions=to_json([expr]),
        dtypes=[source.dtype.name for source in sources],
        modes="".join(modes),
        outer=rank,
    )
    arguments: dict[str, Any] = {**dict(zip(names, windows, strict=True)), **words}
    elements = minimum(row.length, tile_rows) * minimum(inner.length, tile_columns)
    low.call(
        spec,
        items=product([axis.length for axis in axes]) * tiles[0] * tiles[1],
        cost=elements * _picoseconds(low, expr, windows) // 1000 + 5,
        writes="y0",
        rows=row.length,
        columns=inner.length,
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        row_tiles=tiles[0],
        column_tiles=tiles[1],
        **arguments,
    )


def _broadcast(tensor: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """`tensor` under `shape`, with stride 0 along broadcast axes."""
    missing = len(shape) - tensor.rank
    strides = [ZERO] * missing
    for dim, stride, full in zip(tensor.shape, tensor.strides, shape[missing:], strict=True):
        strides.append(stride if dim == full else select_stride(dim, stride))
    return replace(tensor, shape=shape, strides=tuple(strides), halo=())


def _merged(windows: list[Tensor]) -> list[_Axis]:
    """Axes of windows of one shape, outermost first, merged where all of them allow it."""
    axes: list[_Axis] = []
    for position, length in enumerate(windows[0].shape):
        if length == ONE:
            continue
        strides = tuple(window.strides[position] for window in windows)
        if axes and all(
            outer == inner * length for outer, inner in zip(axes[-1].strides, strides, strict=True)
        ):
            axes[-1] = _Axis(axes[-1].length * length, strides)
        else:
            axes.append(_Axis(length, strides))
    return axes


def _mode(stride: Dim) -> str:
    if stride == ONE:
        return "c"
    return "s" if stride == ZERO else "g"


def _picoseconds(low: Lowering, expr: Expr, windows: list[Tensor]) -> int:
    """Estimated time of one element: memory at 10 GB/s, arithmetic at 2.5 GHz."""
    memory = sum(window.itemsize for window in windows) * 100
    cycles = 1
    for node in expr.nodes():
        if node.args:
            cycles += _HEAVY_CYCLES.get(node.op, 25 if node.op in TRANSCENDENTAL else 1)
    return max(memory, cycles * 400 // lanes_for(low.target, [expr]))

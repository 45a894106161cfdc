"""Lowering of GridSample."""

from __future__ import annotations

from typing import Final

from engine.codegen.kernel import KernelSpec
from engine.graph.ir import Node
from engine.kernels import grid
from engine.plan.lower.operands import checked, shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import product

_MODES: Final = {"bilinear": "linear", "bicubic": "cubic"}
"""Names of the modes before opset 20."""


@lowers("GridSample")
def lower_grid_sample(node: Node, low: Lowering) -> None:
    """Images [N, C, spatial...] at positions [N, out..., axes] between -1 and 1."""
    checked(node)
    x, positions = node.inputs[0], node.inputs[1]
    rank = len(shape_of(x)) - 2
    assert x is not None
    assert positions is not None
    mode = str(node.attribute("mode", "linear"))
    mode = _MODES.get(mode, mode)
    padding = str(node.attribute("padding_mode", "zeros"))
    if mode not in grid.MODES or padding not in grid.PADDINGS:
        raise NoKernel(f"mode {mode} with padding {padding}")
    if rank < 1 or rank > 3 or (mode == "cubic" and rank > 2):
        raise NoKernel(f"mode {mode} over {rank} axes")
    if str(x.dtype) not in grid.DTYPES or positions.dtype != x.dtype:
        raise NoKernel(f"GridSample of {x.dtype} at {positions.dtype}")
    source, places = low.read_dense(x), low.read_dense(positions)
    result = low.write(node.outputs[0])
    channels, spatial = source.shape[1], source.shape[2:]
    count = product(result.shape[2:])
    low.call(
        KernelSpec.of(
            grid.GRID_SAMPLE.name,
            rank=rank,
            dtype=str(x.dtype),
            mode=mode,
            padding=padding,
            corners=bool(node.attribute("align_corners", 0)),
        ),
        items=result.shape[0] * count,
        cost=channels * {"nearest": 3, "linear": 6, "cubic": 30}[mode] + 20,
        writes="y",
        x=source,
        grid=places,
        y=result,
        channels=channels,
        positions=count,
        x_image=channels * product(spatial) * source.itemsize,
        x_channel=product(spatial) * source.itemsize,
        **{f"d{axis}": size for axis, size in enumerate(spatial)},
    )

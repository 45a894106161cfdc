"""Rules of operators that resample images."""

from __future__ import annotations

from collections.abc import Sequence

from engine.graph.dims import Dim, maximum, minimum, scaled_floor
from engine.graph.inference.context import Inference, Unknown
from engine.graph.inference.registry import rule


def _scaled(node: Inference, axes: Sequence[int], scales: Sequence[float | None]) -> None:
    shape = node.shape(0)
    if len(scales) != len(axes):
        node.error(f"scales has {len(scales)} entries for {len(axes)} axes")
    result = list(shape)
    for axis, scale in zip(axes, scales, strict=True):
        if scale is None:
            result[axis] = node.fresh(0, axis)
        elif scale <= 0:
            node.error(f"scale {scale} of axis {axis} is not positive")
        else:
            result[axis] = scaled_floor(shape[axis], scale)
    node.output(0, result)


@rule("Upsample")
def _upsample(node: Inference) -> None:
    shape = node.shape(0)
    axes = range(len(shape))
    if node.version >= 9:
        node.output(0, node.unknown(0, len(shape)))
        _scaled(node, axes, node.numbers(1))
    elif node.version >= 7:
        _scaled(node, axes, node.attribute("scales"))
    else:
        scales = node.attribute("height_scale"), node.attribute("width_scale")
        _scaled(node, axes, [1.0, 1.0, *scales])


@rule("Resize")
def _resize(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, node.unknown(0, len(shape)))
    if node.version < 11:
        _scaled(node, range(len(shape)), node.numbers(1))
        return
    axes = [node.axis(axis, len(shape)) for axis in node.attribute("axes") or range(len(shape))]
    sizes = node.entries(3) if node.has(3) else []
    if not sizes:
        if not node.has(2):
            node.error("neither scales nor sizes are given")
        _scaled(node, axes, node.numbers(2))
        return
    if len(sizes) != len(axes):
        node.error(f"sizes has {len(sizes)} entries for {len(axes)} axes")
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    result = list(shape)
    for axis, size in zip(axes, sizes, strict=True):
        result[axis] = node.fresh(0, axis) if size is None else size
    if policy != "stretch":
        _keep_ratio(node, axes, sizes, result, policy)
    node.output(0, result)


def _keep_ratio(
    node: Inference,
    axes: Sequence[int],
    sizes: Sequence[Dim | None],
    result: list[Dim],
    policy: str,
) -> None:
    """Sizes of one common scale, rounded half up: the smallest or largest ratio of all axes."""
    shape = node.shape(0)
    known = [size for size in sizes if size is not None]
    if len(known) != len(sizes):
        raise Unknown
    choose = minimum if policy == "not_larger" else maximum
    for axis in axes:
        # round(shape[axis] * size[k] / shape[k]) for every k; the chosen ratio k is the smallest
        # or largest for all axes alike, and rounding is monotonic.
        result[axis] = choose(
            *(
                (shape[axis] * size * 2 + shape[other]) // (shape[other] * 2)
                for other, size in zip(axes, known, strict=True)
            )
        )


@rule("GridSample")
def _grid_sample(node: Inference) -> None:
    shape, grid = node.shape(0), node.shape(1)
    if len(grid) != len(shape):
        node.error(f"input has rank {len(shape)} and grid rank {len(grid)}; want equal ones")
    node.require_equal(shape[0], grid[0], "the batch axes of input and grid")
    node.output(0, (*shape[:2], *grid[1:-1]))

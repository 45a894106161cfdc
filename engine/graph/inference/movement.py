"""Rules of operators that reorder, cut, join and reshape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.graph.dims import Dim, ceildiv
from engine.graph.inference.context import Inference, Shape, Unknown
from engine.graph.inference.elements import MAX_ELEMENTS, Elements, vector
from engine.graph.inference.registry import rule
from engine.graph.ir import OURS


def product(dims: Sequence[Dim]) -> Dim:
    """Number of elements."""
    result = Dim.of(1)
    for dim in dims:
        result = result * dim
    return result


def known(node: Inference, index: int = 0) -> Elements | None:
    """Elements of an input where any are known."""
    return node.state.known(node.value(index))


@rule("Identity")
def _identity(node: Inference) -> None:
    source = node.value(0)
    if source.kind != "tensor":
        target = node.node.outputs[0]
        target.kind, target.dtype = source.kind, source.dtype
        node.state.items[id(target)] = node.state.items.get(id(source))
        return
    node.same_shape()
    node.output(0, dtype=source.dtype, elements=known(node))


@rule("Shape")
def _shape_of(node: Inference) -> None:
    shape = node.shape(0)
    begin, end = node.attribute("start", 0), node.attribute("end")
    node.output(0, elements=vector(shape[slice(begin, end)]))


@rule("Size")
def _size_of(node: Inference) -> None:
    elements = np.empty((), object)
    elements[()] = product(node.shape(0))
    node.output(0, elements=elements)


@rule("Reshape")
def _reshape(node: Inference) -> None:
    shape = node.shape(0)
    total = product(shape)
    if node.version < 5:
        wanted: list[Dim | None] = [Dim.of(size) for size in node.attribute("shape")]
    else:
        wanted = node.entries(1)
        node.rank(1, 1)
    keep_zero = bool(node.attribute("allowzero", 0))
    result: list[Dim | None] = []
    free: int | None = None
    exact = True
    for axis, size in enumerate(wanted):
        if size is None:
            result.append(node.fresh(0, axis))
            exact = False
        elif size == -1:
            if free is not None:
                node.error("the target shape has two entries of -1")
            free = axis
            result.append(None)
        elif size == 0 and not keep_zero:
            if axis >= len(shape):
                node.error(f"entry {axis} of the target shape is 0, but the input has no such axis")
            result.append(shape[axis])
        elif size.is_constant and size.value < 0:
            node.error(f"the target shape has the entry {size}")
        else:
            result.append(size)
    rest = product([size for size in result if size is not None])
    if free is not None:
        result[free] = _free_size(node, total, rest) if exact else node.fresh(0, free)
    elif exact:
        node.require_equal(total, rest, "the number of elements before and after")
    final = [size for size in result if size is not None]
    node.output(0, final)
    elements = known(node)
    if elements is not None and all(size.is_constant for size in final):
        node.output(0, elements=elements.reshape([size.value for size in final]))


def _free_size(node: Inference, total: Dim, rest: Dim) -> Dim:
    if rest == 0:
        if total == 0:
            return Dim.of(0)
        node.error("the target shape has -1 beside 0")
    size = total // rest
    node.require_equal(size * rest, total, "the number of elements before and after")
    return size


@rule("Flatten")
def _flatten(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        node.error(f"axis {axis} is outside a tensor of rank {len(shape)}")
    axis += len(shape) if axis < 0 else 0
    node.output(0, (product(shape[:axis]), product(shape[axis:])))


@rule("Transpose")
def _transpose(node: Inference) -> None:
    shape = node.shape(0)
    order = node.attribute("perm") or list(range(len(shape)))[::-1]
    if sorted(order) != list(range(len(shape))):
        node.error(f"perm {list(order)} is no permutation of {len(shape)} axes")
    node.output(0, [shape[axis] for axis in order])
    elements = known(node)
    if elements is not None:
        node.output(0, elements=elements.transpose(order))


def _axes(node: Inference, index: int, since: int) -> list[int] | None:
    """Axes from the attribute or, since a version, from input `index`; None where not given."""
    if node.version < since:
        axes = node.attribute("axes")
        return None if axes is None else list(axes)
    return node.integers(index) if node.has(index) else None


@rule("Squeeze")
def _squeeze(node: Inference) -> None:
    shape = node.shape(0)
    axes = _axes(node, 1, 13)
    if axes is None:
        if not all(dim.is_constant for dim in shape):
            raise Unknown  # which axes go depends on their sizes
        removed = {axis for axis, dim in enumerate(shape) if dim == 1}
    else:
        removed = {node.axis(axis, len(shape)) for axis in axes}
        for axis in removed:
            node.require_equal(shape[axis], Dim.of(1), f"the squeezed axis {axis} and 1")
    result = [dim for axis, dim in enumerate(shape) if axis not in removed]
    node.output(0, result)
    elements = known(node)
    if elements is not None and all(dim.is_constant for dim in result):
        node.output(0, elements=elements.reshape([dim.value for dim in result]))


@rule("Unsqueeze")
def _unsqueeze(node: Inference) -> None:
    shape = node.shape(0)
    axes = _axes(node, 1, 13)
    if axes is None:
        node.error("the axes are missing")
    rank = len(shape) + len(axes)
    added = {node.axis(axis, rank) for axis in axes}
    if len(added) != len(axes):
        node.error(f"axes {axes} name an axis twice")
    rest = iter(shape)
    result = [Dim.of(1) if axis in added else next(rest) for axis in range(rank)]
    node.output(0, result)
    elements = known(node)
    if elements is not None:
        node.output(0, elements=elements.reshape([dim.value for dim in result]))


@rule("Concat")
def _concat(node: Inference) -> None:
    values = node.present()
    shapes = [node.shape(index) for index in range(len(values))]
    rank = len(shapes[0])
    axis = node.axis(node.attribute("axis", 1), rank)
    if any(len(shape) != rank for shape in shapes):
        node.error(f"the inputs have ranks {[len(shape) for shape in shapes]}; want equal ones")
    result = list(shapes[0])
    for shape in shapes[1:]:
        for index, dim in enumerate(shape):
            if index == axis:
                result[index] = result[index] + dim
            else:
                what = f"the inputs at axis {index}"
                result[index] = node.require_equal(result[index], dim, what)
    node.output(0, result)
    if sum(node.state.known(value) is not None for value in values):
        try:
            parts = [node.elements(index) for index in range(len(values))]
        except Unknown:
            return
        if sum(part.size for part in parts) <= MAX_ELEMENTS:
            node.output(0, elements=np.concatenate(parts, axis))


@rule("Split")
def _split(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    count = len(node.node.outputs)
    sizes = _split_sizes(node, shape[axis], count)
    for output in range(count):
        size = sizes[output]
        final = node.fresh(output, axis) if size is None else size
        node.output(output, (*shape[:axis], final, *shape[axis + 1 :]))
    elements = known(node)
    if elements is not None and all(size is not None and size.is_constant for size in sizes):
        ends = np.cumsum([size.value for size in sizes if size is not None])
        for output, part in enumerate(np.split(elements, ends[:-1], axis)):
            node.output(output, elements=part)


def _split_sizes(node: Inference, total: Dim, count: int) -> list[Dim | None]:
    declared: Sequence[Dim | None] | None = None
    if node.version >= 13 or (node.version == 1 and node.has(1)):
        declared = node.entries(1) if node.has(1) else None
    elif node.attribute("split"):
        declared = [Dim.of(size) for size in node.attribute("split")]
    if declared is not None:
        if len(declared) != count:
            node.error(f"split has {len(declared)} sizes for {count} outputs")
        if all(size is not None for size in declared):
            parts = sum((size for size in declared if size is not None), Dim.of(0))
            node.require_equal(parts, total, "the sum of the parts and the axis")
        return list(declared)
    if node.version >= 18:
        wanted = node.attribute("num_outputs", count)
        if wanted != count:
            node.error(f"num_outputs is {wanted}, but the node has {count} outputs")
        size = ceildiv(total, count)
        # The last part is smaller where the axis does not divide.
        return [*[size] * (count - 1), total - size * (count - 1)]
    size = total // count
    node.require_equal(size * count, total, f"{count} equal parts and the axis")
    return [size] * count


@rule("Expand")
def _expand(node: Inference) -> None:
    shape = node.shape(0)
    wanted = node.entries(1)
    rank = max(len(shape), len(wanted))
    target: list[Dim] = []
    for axis, size in enumerate(wanted, rank - len(wanted)):
        target.append(node.fresh(0, axis) if size is None else size)
    if any(size is None for size in wanted):
        # What the input broadcasts to is unknown on these axes: the symbols stand for the result.
        padded = (Dim.of(1),) * (rank - len(shape)) + shape
        offset = rank - len(wanted)
        result: Shape = tuple(
            padded[axis]
            if axis < offset
            else target[axis - offset]
            if wanted[axis - offset] is None
            else node.broadcast([(padded[axis],), (target[axis - offset],)])[0]
            for axis in range(rank)
        )
    else:
        result = node.broadcast([shape, tuple(target)], "input and shape")
    node.output(0, result)
    elements = known(node)
    if elements is not None and all(dim.is_constant for dim in result):
        sizes = [dim.value for dim in result]
        if np.prod(sizes, dtype=object) <= MAX_ELEMENTS:
            node.output(0, elements=np.broadcast_to(elements, sizes))


@rule("Tile")
def _tile(node: Inference) -> None:
    shape = node.shape(0)
    if node.version < 6:
        raise Unknown
    node.output(0, node.unknown(0, len(shape)))
    repeats = node.entries(1)
    if len(repeats) != len(shape):
        node.error(f"repeats has {len(repeats)} entries for {len(shape)} axes")
    sizes = [
        node.fresh(0, axis) if times is None else shape[axis] * times
        for axis, times in enumerate(repeats)
    ]
    node.output(0, sizes)
    elements = known(node)
    if elements is not None and all(dim.is_constant for dim in sizes) and None not in repeats:
        times = [item.value for item in repeats if item is not None]
        if np.prod([elements.size, *times], dtype=object) <= MAX_ELEMENTS:
            node.output(0, elements=np.tile(elements, times))


@rule("Pad", domain=OURS)
@rule("Pad")
def _pad(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, node.unknown(0, len(shape)))
    if node.version < 11:
        pads: list[Dim | None] = [
            Dim.of(size) for size in node.attribute("pads") or node.attribute("paddings")
        ]
    else:
        pads = node.entries(1)
    axes = list(range(len(shape)))
    if node.version >= 18 and node.has(3):
        axes = [node.axis(axis, len(shape)) for axis in node.integers(3)]
    if len(pads) != 2 * len(axes):
        node.error(f"pads has {len(pads)} entries for {len(axes)} axes")
    result = list(shape)
    for position, axis in enumerate(axes):
        before, after = pads[position], pads[position + len(axes)]
        if before is None or after is None:
            result[axis] = node.fresh(0, axis)
        else:
            result[axis] = shape[axis] + before + after
    node.output(0, result)


@rule("CenterCropPad")
def _centre_crop_pad(node: Inference) -> None:
    shape = node.shape(0)
    axes = node.attribute("axes") or list(range(len(shape)))
    sizes = node.entries(1)
    if len(sizes) != len(axes):
        node.error(f"shape has {len(sizes)} entries for {len(axes)} axes")
    result = list(shape)
    for axis, size in zip(axes, sizes, strict=True):
        index = node.axis(axis, len(shape))
        result[index] = node.fresh(0, index) if size is None else size
    node.output(0, result)


@rule("ReverseSequence")
def _reverse_sequence(node: Inference) -> None:
    node.same_shape()

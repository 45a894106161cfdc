"""Rules of batching: operators that reorder, cut, join and pick."""

from __future__ import annotations

from engine.graph.batching.rows import (
    Refusal,
    Result,
    Rows,
    constants_of,
    data_axis,
    positive,
    rank_of,
    rule,
    shape_of,
)
from engine.graph.dims import Dim
from engine.graph.ir import Node


@rule("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(node: Node, rows: Rows) -> Result:
    """Rows stay together where as many elements come before their axis as before."""
    axis = rows.axis(node.input(0))
    if axis is None:
        raise Refusal("computes with the size of the batch")
    before = Dim.of(1)
    for dim in shape_of(node.input(0))[:axis]:
        before = before * dim
    passed = Dim.of(1)
    for position, dim in enumerate(shape_of(node.outputs[0])):
        if passed is before and rows.symbol in dim.symbols and rows.divides(dim):
            return position
        passed = passed * dim
    raise Refusal("moves elements between rows")


@rule("Transpose")
def _transpose(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    order = node.attribute("perm") or list(range(rank_of(node.input(0))))[::-1]
    return list(order).index(axis)


@rule("Concat")
def _concat(node: Node, rows: Rows) -> Result:
    axes = {rows.axis(value) for value in node.inputs}
    axis = axes.pop()
    if axes or axis is None or any(rows.is_number(value) for value in node.inputs):
        raise Refusal("joins values with the rows on different axes")
    if axis == positive(node.attribute("axis", 1), rank_of(node.input(0))):
        raise Refusal("joins along the batch")
    return axis


def _outside(node: Node, rows: Rows, along: int, what: str) -> int:
    axis = data_axis(node, rows)
    if axis == positive(along, rank_of(node.input(0))):
        raise Refusal(f"{what} the batch")
    return axis


@rule("Split")
def _split(node: Node, rows: Rows) -> Result:
    return _outside(node, rows, node.attribute("axis", 0), "splits")


@rule("TopK")
def _top_k(node: Node, rows: Rows) -> Result:
    return _outside(node, rows, node.attribute("axis", -1), "sorts")


@rule("CumSum", "CumProd")
def _cumulate(node: Node, rows: Rows) -> Result:
    along = constants_of(node.input(1))
    if not along:
        raise Refusal("has an axis that is not known")
    return _outside(node, rows, along[0], "adds up along")


@rule("DFT")
def _fourier(node: Node, rows: Rows) -> Result:
    along = [node.attribute("axis", 1)]
    if node.version >= 20:
        along = (constants_of(node.input(2)) or [-1]) if node.input(2) is not None else [-2]
    return _outside(node, rows, along[0], "transforms")


@rule("Trilu", "Det")
def _matrices(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    if axis >= rank_of(node.input(0)) - 2:
        raise Refusal("has the batch inside its matrices")
    return axis


@rule("Slice")
def _slice(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None:
        raise Refusal("computes with the size of the batch")
    axes = node.attribute("axes") if node.version < 10 else constants_of(node.input(3))
    if axes is None:
        if node.version >= 10 and node.input(3) is not None:
            raise Refusal("has axes that are not known")
        axes = range(rank_of(node.input(0)))
    touched = [positive(item, rank_of(node.input(0))) for item in axes]
    if axis not in touched:
        return axis
    steps = [1] * len(touched)
    if node.input(4) is not None:
        steps = constants_of(node.input(4)) or [0] * len(touched)
    # A step of 1 that keeps the size keeps every row in place.
    kept = shape_of(node.outputs[0])[axis] is shape_of(node.input(0))[axis]
    if not kept or steps[touched.index(axis)] != 1:
        raise Refusal("cuts the batch")
    return axis


@rule("Pad")
def _pad(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or (node.input(2) is not None and rows.touches(node.inputs[2])):  # type: ignore[arg-type]
        raise Refusal("computes with the size of the batch")
    rank = rank_of(node.input(0))
    axes = list(range(rank))
    if node.input(3) is not None:
        known = constants_of(node.input(3))
        if known is None:
            raise Refusal("has axes that are not known")
        axes = [positive(item, rank) for item in known]
    if axis not in axes:
        return axis
    position = axes.index(axis)
    if node.version < 11:
        pads = node.attribute("pads") or node.attribute("paddings")
        items = [Dim.of(size) for size in pads]
    else:
        value = node.input(1)
        constants = constants_of(value)
        if constants is not None:
            items = [Dim.of(size) for size in constants]
        elif value is not None and value.dims is not None:
            items = list(value.dims)
        else:
            raise Refusal("pads by sizes that are not known")
    if items[position] != 0 or items[position + len(axes)] != 0:
        raise Refusal("pads the batch")
    return axis


@rule("Resize", "Tile", "Upsample", "CenterCropPad")
def _resize(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or shape_of(node.outputs[0])[axis] is not shape_of(node.input(0))[axis]:
        raise Refusal("resizes the batch")
    if node.op == "Resize" and node.attribute("coordinate_transformation_mode") == (
        "tf_crop_and_resize"
    ):
        raise Refusal("may crop the batch")
    return axis


@rule("Expand", "ConstantOfShape")
def _expand(node: Node, rows: Rows) -> Result:
    """Rows of the input, or the same row for all, where the result gets the size of the batch."""
    shape = shape_of(node.outputs[0])
    source = node.input(0) if node.op == "Expand" else None
    axis = rows.axis(source)
    if axis is not None:
        return len(shape) - rank_of(source) + axis
    if rows.is_number(source):
        raise Refusal("computes with the size of the batch")
    new = [position for position, dim in enumerate(shape) if rows.symbol in dim.symbols]
    if not new:
        return None
    position = new[0] - len(shape) + (rank_of(source) if source is not None else 0)
    if source is not None and position >= 0 and shape_of(source)[position] != 1:
        raise Refusal(f"gives every row of the batch an entry of {source.name!r}")
    return new[0]


@rule("Gather")
def _gather(node: Node, rows: Rows) -> Result:
    data, indices = node.input(0), node.input(1)
    along = positive(node.attribute("axis", 0), rank_of(data))
    axis, picked = rows.axis(data), rows.axis(indices)
    if rows.is_number(indices) or rows.is_number(data):
        raise Refusal("computes with the size of the batch")
    if axis is None and picked is not None:
        return along + picked
    if axis is None or picked is not None:
        raise Refusal("picks by the batch from the batch")
    if axis == along:
        raise Refusal("picks rows of the batch")
    return axis if axis < along else axis + rank_of(indices) - 1


@rule("GatherElements", "ScatterElements")
def _gather_elements(node: Node, rows: Rows) -> Result:
    axes = {rows.axis(value) for value in node.inputs if value is not None}
    axis = axes.pop()
    if axes or axis is None:
        raise Refusal("picks between values with the rows on different axes")
    if axis == positive(node.attribute("axis", 0), rank_of(node.input(0))):
        raise Refusal("picks rows of the batch")
    return axis


@rule("GatherND")
def _gather_nd(node: Node, rows: Rows) -> Result:
    data, indices = rows.axis(node.input(0)), rows.axis(node.input(1))
    batch = node.attribute("batch_dims", 0)
    if indices is None or indices >= rank_of(node.input(1)) - 1:
        raise Refusal("picks rows of the batch")
    if data is not None and (data != indices or data >= batch):
        raise Refusal("picks rows of the batch")
    if data is None and (indices < batch or rows.is_number(node.input(0))):
        raise Refusal("gives every row of the batch an entry of another value")
    return indices


@rule("OneHot")
def _one_hot(node: Node, rows: Rows) -> Result:
    axis = data_axis(node, rows)
    along = positive(node.attribute("axis", -1), rank_of(node.input(0)) + 1)
    return axis + 1 if along <= axis else axis


@rule("ReverseSequence")
def _reverse_sequence(node: Node, rows: Rows) -> Result:
    axis = rows.axis(node.input(0))
    if axis is None or axis != node.attribute("batch_axis", 1) or rows.axis(node.input(1)) != 0:
        raise Refusal("does not have the batch on its batch axis")
    return axis

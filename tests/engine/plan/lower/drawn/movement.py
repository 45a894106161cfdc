"""Operators that move elements: windows, borders, blocks, fills, triangles, running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.engine.plan.lower.drawn.support import (
    ANY,
    FLOATS,
    LENGTHS,
    Draw,
    Shape,
    axis_of,
    draws,
    flag,
    number,
    pick,
    shape,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one


def at(axes: Shape, axis: int, length: int) -> Shape:
    return (*axes[:axis], length, *axes[axis + 1 :])


@draws("Concat")
def joined(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 5)
    axis, given = axis_of(draw, axes)
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 5, 16, 33]), min_size=1, max_size=4))
    inputs = {f"x{i}": tensor(dtype, *at(axes, axis, n)) for i, n in enumerate(lengths)}
    if axis and flag(draw):
        inputs["open"] = tensor(dtype, *axes)
    return one(op, inputs, axis=given, rows=axis > 0)


@draws("Split")
def parts(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 5, 16]), min_size=2, max_size=4))
    outputs = tuple(f"y{i}" for i in range(len(lengths)))
    x = {"x": tensor(dtype, *at(axes, axis, sum(lengths)))}
    # onnxruntime takes no last part without elements.
    even = -(-sum(lengths) // len(lengths))
    if flag(draw) and (len(lengths) - 1) * even < sum(lengths):
        count = {"num_outputs": len(lengths)}
        return one(op, x, axis=given, outputs=outputs, rows=axis > 0, **count)
    sizes = {"sizes": ints(*lengths)}
    return one(op, x, constants=sizes, axis=given, outputs=outputs, rows=axis > 0)


@draws("Slice")
def slices(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    first = 1 if len(axes) > 1 and flag(draw) else 0
    chosen = draw(st.lists(st.integers(first, len(axes) - 1), unique=True, min_size=1))
    bounds = [0, 1, 2, 4, 9, 2**31, -1, -2, -5, -(2**31)]
    steps = [pick(draw, 1, 1, 2, 3, -1, -2) for _ in chosen]
    # Backwards from before the first element numpy takes nothing, onnxruntime the first.
    starts = [pick(draw, *(n for n in bounds if step > 0 or n >= 0)) for step in steps]
    # It also takes the largest integers for the end in any direction, as ONNX does forwards only.
    ends = [pick(draw, *(n for n in bounds if step > 0 or n < 2**31)) for step in steps]
    numbers = {"starts": ints(*starts), "ends": ints(*ends), "axes": ints(*chosen)}
    numbers["steps"] = ints(*steps)
    if flag(draw):
        numbers = {
            name: array.clip(-(2**31), 2**31 - 1).astype(np.int32)
            for name, array in numbers.items()
        }
    return one(op, {"x": tensor(dtype, *axes)}, constants=numbers, rows=first > 0)


@draws("Transpose")
def permuted(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 5)
    order = draw(st.permutations(range(len(axes))))
    if flag(draw):
        order = [0, *(axis for axis in order if axis)]
    return one(op, {"x": tensor(dtype, *axes)}, perm=order, rows=order[0] == 0)


@draws("Reshape")
def reshaped(draw: Draw, op: str) -> Example:
    """Axes that are not open are merged and split; -1 and 0 stand for what they may."""
    dtype, inner = pick(draw, *ANY), draw(st.lists(LENGTHS, min_size=1, max_size=3))
    flat = int(np.prod(inner))
    factor = pick(draw, *(n for n in (1, 2, 3, 4, 8, 16) if flat % n == 0))
    kind = number(draw, 0, 4)
    axes: Shape = ("n", "w", *inner)
    wanted = {
        0: [0, 0, -1],
        1: [0, -1, factor],
        2: [-1, flat],
        3: [0, 0, factor, flat // factor],
        4: [0, -1],
    }[kind]
    rows = kind != 2
    x = {"x": tensor(dtype, *axes)}
    # onnxruntime has no -1 beside an axis of 0.
    zero = {0: (), 1: ("w",), 2: ("n", "w"), 3: ("n", "w"), 4: ()}[kind]
    return one(op, x, constants={"s": ints(*wanted)}, rows=rows, zero=zero)


@draws("Flatten")
def flattened(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 5)
    axis = number(draw, -len(axes), len(axes))
    return one(op, {"x": tensor(dtype, *axes)}, axis=axis, rows=axis % len(axes) == 1)


@draws("Squeeze", "Unsqueeze")
def singles(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    rank = len(axes) + (op == "Unsqueeze")
    chosen = sorted(draw(st.sets(st.integers(1, rank - 1), min_size=1))) if rank > 1 else [0]
    if op == "Squeeze":
        axes = tuple(1 if axis in chosen else length for axis, length in enumerate(axes))
    given = [
        axis - rank if rank > 1 and len(chosen) == 1 and flag(draw) else axis for axis in chosen
    ]
    if op == "Unsqueeze":
        given = [axis for axis in chosen if axis < len(axes) + len(chosen)]
    x = {"x": tensor(dtype, *axes)}
    return one(op, x, constants={"axes": ints(*given)}, rows=chosen[0] > 0)


@draws("Expand")
def expanded(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    wanted = [draw(LENGTHS) if length == 1 else 1 for length in axes]
    front = draw(st.lists(LENGTHS, max_size=2))
    x = {"x": tensor(dtype, *axes)}
    return one(op, x, constants={"s": ints(*front, *wanted)}, rows=not front)


@draws("Tile")
def repeated(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *ANY), shape(draw, 1, 4)
    counts = [pick(draw, 1, 2, 3, 0) for _ in axes]
    if flag(draw):
        counts[0] = 1
    return one(op, {"x": tensor(dtype, *axes)}, constants={"r": ints(*counts)}, rows=counts[0] == 1)


PAD_TYPES = tuple(dtype for dtype in ANY if dtype != "float16")


@draws("Pad")
def borders(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *PAD_TYPES), shape(draw, 1, 4)
    mode = pick(draw, "constant", "reflect", "edge", "wrap")
    first = 1 if len(axes) > 1 else 0
    chosen = draw(st.lists(st.integers(first, len(axes) - 1), unique=True, min_size=1))
    most = {"constant": 6, "edge": 6, "reflect": 2, "wrap": 3}[mode]
    least = -1 if mode == "constant" else 0
    pads = [number(draw, least, most) for _ in range(2 * len(chosen))]
    constants: dict[str, Array] = {"pads": ints(*pads), "axes": ints(*chosen)}
    names = ["x", "pads", "", "axes"]
    if mode == "constant" and flag(draw):
        constants["value"] = np.array(3, dtype)
        names[2] = "value"
    axes = tuple(length if isinstance(length, str) else max(length, 3) for length in axes)
    zero = () if mode != "constant" or least < 0 else ("n", "w")
    found = {"least": {"w": 4, "n": 4 if first == 0 else 1}, "zero": zero, "rows": first > 0}
    # onnxruntime pads some types only, and wraps around only once.
    return one(op, {"x": tensor(dtype, *axes)}, *names, constants=constants, mode=mode, **found)


@draws("DepthToSpace", "SpaceToDepth")
def blocks(draw: Draw, op: str) -> Example:
    dtype, block, deep = pick(draw, "float32", "float64", "uint8"), number(draw, 1, 3), flag(draw)
    channels, height = number(draw, 1, 5), number(draw, 1, 4)
    if op == "DepthToSpace":
        axes: Shape = ("n", channels * block**2, height, "w")
        mode = "DCR" if deep else "CRD"
        return one(op, {"x": tensor(dtype, *axes)}, blocksize=block, mode=mode, zero=("n",))
    axes = ("n", channels, height * block, number(draw, 1, 9) * block)
    return one(op, {"x": tensor(dtype, *axes)}, blocksize=block, zero=("n",))


@draws("ConstantOfShape")
def filled(draw: Draw, op: str) -> Example:
    axes = shape(draw, 1, 4)
    nodes = [helper.make_node("Shape", ["x"], ["s"])]
    value = {}
    if flag(draw):
        dtype = pick(draw, *ANY)
        value = {"value": numpy_helper.from_array(np.array([1], dtype))}
    nodes.append(helper.make_node(op, ["s"], ["y"], **value))
    return Example(nodes, {"x": tensor("float32", *axes)})


@draws("Range")
def ranges(draw: Draw, op: str) -> Example:
    dtype = pick(draw, "int32", "int64")
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    step = pick(draw, 1, 2, 3, -1, -4)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=2),
        helper.make_node("Squeeze", ["s"], ["size64"]),
        helper.make_node("Cast", ["size64"], ["size"], to=to),
        helper.make_node(op, ["start", "size", "step"], ["y"]),
    ]
    constants = {
        # Counting down from 0 or less is empty whatever the size, and then no kernel is reached.
        "start": np.array(number(draw, -5 if step > 0 else 1, 60), dtype),
        "step": np.array(step, dtype),
    }
    return Example(nodes, {"x": tensor("float32", "n", "w")}, constants, rows=False)


@draws("EyeLike")
def identities(draw: Draw, op: str) -> Example:
    kinds = ("float32", "float64", "int32", "int64", "uint64")
    dtype = {}
    if flag(draw):
        dtype = {"dtype": helper.np_dtype_to_tensor_dtype(np.dtype(pick(draw, *kinds)))}
    x = {"x": tensor(pick(draw, *kinds), "n", "w")}
    return one(op, x, k=number(draw, -3, 3), rows=False, **dtype)


@draws("Trilu")
def triangles(draw: Draw, op: str) -> Example:
    dtype = pick(draw, "float32", "float64", "int32", "int64", "bool", "uint8")
    axes: Shape = (*shape(draw, 1, 3), pick(draw, 1, 5, 17), pick(draw, 1, 6, 16))
    x, upper = {"x": tensor(dtype, *axes)}, number(draw, 0, 1)
    diagonal = number(draw, -4, 4)
    kind = pick(draw, "none", "constant", "input")
    if kind == "input":
        array = np.array(diagonal, np.int64)
        return one(op, x | {"k": Input((), lambda rng, lengths, sizes: array)}, upper=upper)
    constants = {"k": np.array(diagonal, np.int64)} if kind == "constant" else {}
    return one(op, x, constants=constants, upper=upper)


@draws("CumSum", "CumProd")
def running(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, "float32", "float64", "int32", "int64"), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    scale = 0.7 if op == "CumProd" else 2
    x = {"x": tensor(dtype, *axes, scale=scale, low=-1, high=1)}
    flags: dict[str, Any] = {"exclusive": number(draw, 0, 1), "reverse": number(draw, 0, 1)}
    opset = 26 if op == "CumProd" else 21
    constants = {"axis": np.array(given, pick(draw, np.int32, np.int64))}
    return one(op, x, constants=constants, rows=axis > 0, opset=opset, **flags)


@draws("ReverseSequence")
def reversals(draw: Draw, op: str) -> Example:
    dtype, rest = pick(draw, *FLOATS, "int32", "int64"), draw(st.lists(LENGTHS, max_size=2))
    rows_first = flag(draw)
    axes: Shape = (*(("n", "w") if rows_first else ("w", "n")), *rest)

    def lengths(rng: np.random.Generator, count: tuple[int, ...], sizes: Sizes) -> Array:
        return rng.integers(1, sizes["w"] + 1, count)

    return one(
        op,
        {"x": tensor(dtype, *axes), "lens": Input(("n",), lengths)},
        batch_axis=0 if rows_first else 1,
        time_axis=1 if rows_first else 0,
        rows=rows_first,
        zero=("n",),
    )


@draws("BitCast")
def bit_casts(draw: Draw, op: str) -> Example:
    groups = (
        ("float32", "int32", "uint32"),
        ("float64", "int64", "uint64"),
        ("float16", "int16", "uint16"),
        ("int8", "uint8"),
    )
    group = pick(draw, *groups)
    source, target = pick(draw, *group), pick(draw, *group)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    return one(op, {"x": tensor(source, *shape(draw, 1, 4))}, to=to, opset=26)


@draws("packhorse.Bytes")
def bytes_of_small_floats(draw: Draw, key: str) -> Example:
    """The codes of floats of 8 bits, made and read; see also the drawn conversions."""
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E5M2),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    return Example(nodes, {"x": tensor("float32", *shape(draw, 1, 4))})

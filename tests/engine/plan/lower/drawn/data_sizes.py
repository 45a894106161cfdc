"""Operators whose results are as long as data says: places of elements, distinct ones, boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.engine.plan.lower.drawn.support import (
    Draw,
    Shape,
    draws,
    flag,
    number,
    pick,
    shape,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one


@draws("packhorse.CountNonZero", "packhorse.Positions")
def places(draw: Draw, key: str) -> Example:
    dtype, share = pick(draw, "bool", "uint8", "int32", "int64", "float32"), pick(draw, 0, 0.1, 1)
    axes = shape(draw, 1, 3)

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return ((rng.random(lengths) < share) * 3).astype(dtype)

    return one("NonZero", {"x": Input(axes, values)}, rows=False)


@draws("packhorse.Distinct")
def distinct(draw: Draw, key: str) -> Example:
    """Elements, or slices along an axis; few numbers, so that some are alike."""
    dtype = pick(draw, "float32", "float64", "int8", "int64", "float16")
    options = {"sorted": number(draw, 0, 1)}
    axes: Shape = ("n", "w")
    if flag(draw):
        axes = pick(draw, axes, ("n", 2, "w"), (3, "n", 1))
        options["axis"] = number(draw, -len(axes), len(axes) - 1)
    high = 1 if "axis" in options else 9
    x = {"x": tensor(dtype, *axes, scale=high / 3, low=0, high=high)}
    if dtype.startswith("float"):
        source = x["x"].draw
        x["x"] = Input(axes, lambda *given: np.round(source(*given)) + 0)
    outputs = ("y", "first", "inverse", "counts")
    return one("Unique", x, outputs=outputs, rows=False, zero=(), **options)


def boxes(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
    first = rng.random((*lengths[:-1], 2)) * 4
    last = first + rng.random((*lengths[:-1], 2)) * 3 + 0.1
    return np.concatenate([first, last], -1).astype(np.float32)


@draws("packhorse.Suppress", "packhorse.KeptBoxes")
def suppression(draw: Draw, key: str) -> Example:
    inputs = {"boxes": Input(("n", "w", 4), boxes), "scores": tensor("float32", "n", 2, "w")}
    constants = {
        "most": ints(pick(draw, 1, 3, 100)),
        "overlap": np.array([pick(draw, 0.1, 0.5, 1)], np.float32),
        "floor": np.array([pick(draw, -9, 0)], np.float32),
    }
    point = {"center_point_box": number(draw, 0, 1)}
    return one("NonMaxSuppression", inputs, constants=constants, rows=False, **point)


@draws("packhorse.RoiAlign")
def regions(draw: Draw, key: str) -> Example:
    images, opset = number(draw, 1, 3), pick(draw, 10, 16)

    def corners(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        first = rng.uniform(-3, 9, (lengths[0], 2))
        return np.concatenate([first, first + rng.uniform(-1, 9, first.shape)], 1).astype(
            np.float32
        )

    def of_image(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.integers(0, images, lengths)

    inputs = {"x": tensor("float32", images, pick(draw, 1, 5, 17), 6, "w")}
    inputs |= {"rois": Input(("n", 4), corners), "images": Input(("n",), of_image)}
    attributes: dict[str, Any] = {"output_height": number(draw, 1, 3), "output_width": 2}
    attributes |= {"mode": pick(draw, "avg", "max"), "sampling_ratio": pick(draw, 0, 2)}
    attributes["spatial_scale"] = pick(draw, 0.5, 1.0)
    return one("RoiAlign", inputs, opset=opset, zero=("n",), **attributes)


@draws("Loop")
def iterations(draw: Draw, op: str) -> Example:
    """A counted loop over rows, with or without results per iteration."""
    step, scans = pick(draw, "Tanh", "Neg", "Abs"), flag(draw)
    nodes = [
        helper.make_node("Identity", ["going"], ["on"]),
        helper.make_node(step, ["state"], ["bent"]),
        helper.make_node("Add", ["bent", "x"], ["next"]),
    ]
    results = ["on", "next"]
    if scans:
        nodes.append(helper.make_node("Identity", ["next"], ["row"]))
        results.append("row")
    body = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [helper.make_empty_tensor_value_info(name) for name in results],
    )
    outputs = ("y", "rows")[: 1 + scans]
    # What no iteration gives has one axis in onnxruntime, whatever the body says.
    trips = np.array(number(draw, int(scans), 4))
    inputs = {"trips": array_input(trips), "x": tensor("float32", "n", "w")}
    found: dict[str, Any] = {"outputs": outputs, "rows": not scans, "body": body}
    return one(op, inputs, "trips", "", "x", **found)


def array_input(array: Array) -> Input:
    return Input(array.shape, lambda rng, lengths, sizes: array)

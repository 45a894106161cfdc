"""Operators in which a result depends on its place: unpooled images, blocks, caches, frames,
deformed windows; determinants; inverse and hyperbolic functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.engine.plan.lower.drawn.support import Draw, draws, flag, number, pick, shape, tensor
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one, weights


@draws("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh")
def inverses(draw: Draw, op: str) -> Example:
    axes = shape(draw)

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        inside = rng.uniform(-0.95, 0.95, lengths)
        return (inside + 2.5 if op == "Acosh" else inside).astype(np.float32)

    return one(op, {"x": Input(axes, values)}, opset=22, rows=axes[:1] == ("n",))


@draws("Det")
def determinants(draw: Draw, op: str) -> Example:
    size = number(draw, 1, 5)
    return one(op, {"x": tensor("float32", "n", "w", size, size, scale=1)})


@draws("TensorScatter")
def caches(draw: Draw, op: str) -> Example:
    axes, length, count = pick(draw, ("n",), ("n", 2)), number(draw, 3, 6), number(draw, 1, 3)
    circular = flag(draw)
    inputs = {
        "x": tensor("float32", *axes, length, "w"),
        "u": tensor("float32", *axes, count, "w"),
        "i": tensor("int64", "n", low=0, high=length - (1 if circular else count)),
    }
    return one(op, inputs, opset=24, mode="circular" if circular else "linear")


@draws("MaxUnpool")
def unpooled(draw: Draw, op: str) -> Example:
    """Places that all differ, or the order of writing would count."""
    channels = number(draw, 1, 3)

    def places(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        size = int(np.prod(lengths))
        return rng.permutation(4 * size)[:size].reshape(lengths)

    axes = ("n", channels, 2, "w")
    inputs = {"x": tensor("float32", *axes), "i": Input(axes, places)}
    return one(op, inputs, kernel_shape=[2, 2], strides=[2, 2], opset=11, rows=False, zero=())


@draws("Col2Im")
def blocks(draw: Draw, op: str) -> Example:
    rank = number(draw, 1, 2)
    block, strides = ([number(draw, 1, 2) for _ in range(rank)] for _ in range(2))
    pads = [number(draw, 0, 1) for _ in range(2 * rank)]
    image = [number(draw, 3, 7) for _ in range(rank)]
    positions = 1
    for axis in range(rank):
        length = image[axis] + pads[axis] + pads[axis + rank] - block[axis]
        positions *= length // strides[axis] + 1
    x = tensor("float32", "n", 2 * int(np.prod(block)), positions)
    constants = {"image": ints(*image), "block": ints(*block)}
    inputs = {"x": x}
    for name in ("image", "block"):
        if flag(draw):
            array = constants.pop(name)
            inputs[name] = Input(array.shape, lambda rng, lengths, _, array=array: array)
    options: dict[str, Any] = {"strides": strides, "pads": pads, "zero": ("n",)}
    return one(op, inputs, "x", "image", "block", constants=constants, **options)


@draws("packhorse.Frames")
def frames(draw: Draw, key: str) -> Example:
    length, step = number(draw, 1, 9), number(draw, 1, 5)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["signal"]),
        helper.make_node("STFT", ["signal", "step", "", "length"], ["y"], onesided=int(flag(draw))),
    ]
    constants = {"shape": ints(0, -1, 1), "step": np.array(step), "length": np.array(length)}
    return Example(nodes, {"x": tensor("float32", "n", 9, "w")}, constants, zero=())


@draws("packhorse.DeformedColumns")
def deformed(draw: Draw, key: str) -> Example:
    # Groups of the convolution itself are tested on known sizes: of open ones, their product
    # has batch axes that do not merge and runs on the fallback path.
    group, offsets = 1, pick(draw, 1, 2, 4)
    taps = 4 * offsets
    inputs = {
        "x": tensor("float32", "n", 4, 6, "w"),
        "offset": tensor("float32", "n", 2 * taps, 5, "w", scale=1),
        "mask": tensor("float32", "n", taps, 5, "w"),
    }
    constants = {"k": weights(4, 4 // group, 2, 2), "b": weights(4)}
    names = ["x", "k", "offset", "b", "mask"][: pick(draw, 3, 4, 5)]
    if "mask" not in names:
        del inputs["mask"]
    constants = {name: array for name, array in constants.items() if name in names}
    options = {"group": group, "offset_group": offsets, "pads": [0, 0, 0, 1], "zero": ("n",)}
    return one("DeformConv", inputs, *names, constants=constants, **options)

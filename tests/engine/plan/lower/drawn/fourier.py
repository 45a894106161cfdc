"""Drawn models of Fourier transforms, of lengths that are known, an axis's or an input's."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.engine.plan.lower.drawn.support import Draw, draws, flag, number, pick, tensor
from tests.engine.plan.lower.example import Example, given, one


@draws("DFT")
def transforms(draw: Draw, op: str) -> Example:
    """Known lengths are too long for products, and have small and large factors."""
    inverse = number(draw, 0, 1)
    onesided = number(draw, 0, 1)
    parts = 2 if inverse and onesided else 1 if onesided else number(draw, 1, 2)
    # onnxruntime 1.31 has no real numbers from half a spectrum.
    reference = "no inverse of half a spectrum" if inverse and onesided else ""
    axes: list[Any] = ["n", pick(draw, 1, 3), pick(draw, 1, 2)]
    axis = number(draw, 1, 2)
    kind = pick(draw, "axis", "open", "constant", "input")
    length = pick(draw, 66, 67, 80, 121, 128, 150, 256)
    axes[axis] = "w" if kind == "open" else length if kind == "axis" else number(draw, 2, 150)
    if kind == "axis" and inverse and onesided:
        axes[axis] = length // 2 + 1
    inputs = {"x": tensor(pick(draw, "float32", "float64"), *axes, parts)}
    constants = {"axis": np.array(axis - pick(draw, 0, 4))}
    names = ["x", "", "axis"]
    if kind in ("constant", "input"):
        names[1] = "length"
        array = np.array(length)
        if kind == "constant":
            constants["length"] = array
        else:
            inputs["length"] = given(array)
    node = helper.make_node(op, names, ["y"], inverse=inverse, onesided=onesided)
    return Example(
        [node],
        inputs,
        constants,
        opset=20,
        zero=("n",),
        least={"w": 2},
        reference=reference,
    )


@draws("STFT")
def short_time(draw: Draw, op: str) -> Example:
    length, parts = pick(draw, 65, 72, 77, 128), number(draw, 1, 2)
    onesided = number(draw, 0, 1) if parts == 1 else 0
    step, window = number(draw, 1, 30), flag(draw)
    inputs = {"x": tensor("float32", "n", length + pick(draw, 0, 1, 40), parts)}
    constants = {"step": np.array(step)}
    names = ["x", "step", "window" if window else "", "length"]
    if window:
        inputs["window"] = tensor("float32", length)
    if flag(draw):
        inputs["length"] = given(np.array(length))
    else:
        constants["length"] = np.array(length)
    return one(op, inputs, *names, constants=constants, onesided=onesided, zero=("n",))

"""Deformable convolutions against onnxruntime: groups of either kind, pads, strides, dilations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.single import Array, Single

CASES: list[dict[str, Any]] = [
    {},
    {"group": 2, "pads": [1, 1, 1, 1]},
    {"offset_group": 2, "strides": [2, 1], "bias": False},
    {"group": 2, "offset_group": 4, "masked": True},
    {"group": 4, "offset_group": 2, "dilations": [2, 1], "masked": True},
    {"images": 0},
    {"computed": True, "group": 2},
]


@pytest.mark.parametrize("case", CASES)
def test_deformable(case: dict[str, Any]) -> None:
    own = {"images": 2, "bias": True, "masked": False, "computed": False}
    images, bias, masked, computed = (case.get(key, default) for key, default in own.items())
    options = {key: value for key, value in case.items() if key not in own}
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    kernel, size, channels = [3, 2], (7, 9), 8
    strides, pads = options.get("strides", [1, 1]), options.get("pads", [0] * 4)
    steps = options.get("dilations", [1, 1])
    result = [
        (size[a] + pads[a] + pads[a + 2] - steps[a] * (kernel[a] - 1) - 1) // strides[a] + 1
        for a in range(2)
    ]
    taps = 6 * options.get("offset_group", 1)
    arrays = {
        "x": normal(images, channels, *size),
        "w": normal(12, channels // options.get("group", 1), *kernel),
        "offset": normal(images, 2 * taps, *result) * 2,
    }
    order = ["x", "w", "offset"]
    if bias or masked:
        order.append("b" if bias else "")
    if bias:
        arrays["b"] = normal(12)
    if masked:
        arrays["mask"] = rng.random((images, taps, *result)).astype(np.float32)
        order.append("mask")
    constants = [name for name in ("w", "b") if name in arrays and not computed]
    model = Single(
        "DeformConv",
        arrays,
        order=order,
        constants=constants,
        symbolic=False,
        opset=19,
        kernel_shape=kernel,
        **options,
    )
    model.check(**{name: array for name, array in arrays.items() if name not in constants})

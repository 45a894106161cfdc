"""Convolutions over three spatial axes in every form, with constant and with computed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.single import Single

RANDOM = np.random.default_rng(7)
FORMS: list[dict[str, Any]] = [
    {},
    {"group": 2},
    {"group": 4, "pads": [1, 0, 1, 0, 1, 1]},
    {"dilations": [2, 1, 2]},
    {"group": 2, "dilations": [1, 2, 2], "strides": [2, 1, 2]},
    {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2, 2]},
]
TRANSPOSED: list[dict[str, Any]] = [
    {"strides": [2, 1, 2], "pads": [1, 0, 1, 1, 0, 1]},
    {"strides": [2, 3, 1], "output_padding": [1, 2, 0]},
    {"group": 2, "dilations": [1, 2, 1], "strides": [2, 1, 2]},
    {"strides": [2, 1, 2], "output_shape": [13, 8, 15]},
    {"strides": [2, 2, 2], "output_shape": [12, 12, 14], "auto_pad": "SAME_UPPER"},
]


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_convolution(form: dict[str, Any], constant: bool) -> None:
    group = form.get("group", 1)
    x, w, b = normal(2, 4, 7, 8, 9), normal(8, 4 // group, 3, 3, 2), normal(8)
    names = ["w", "b"]
    inputs = {"x": x, "w": w, "b": b}
    constants = names if constant else []
    case = Single("Conv", inputs, constants=constants, fixed=names, **form)
    case.check(x=x, **({} if constant else {"w": w, "b": b}))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("form", TRANSPOSED)
def test_transposed_convolution(form: dict[str, Any], constant: bool) -> None:
    x, w, b = normal(2, 4, 6, 7, 7), normal(4, 3, 3, 2, 3), normal(3 * form.get("group", 1))
    constants = ["w", "b"] if constant else []
    inputs = {"x": x, "w": w, "b": b}
    case = Single("ConvTranspose", inputs, constants=constants, fixed=["w", "b"], **form)
    feeds = {"x": x} if constant else inputs
    case.check(**feeds)
    case.check(**(feeds | {"x": normal(1, 4, 6, 7, 7)}))

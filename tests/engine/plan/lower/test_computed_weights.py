"""Convolutions with weights of the run, and transposed convolutions of every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.single import Array, Single

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


CONVOLUTIONS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((5, 4, 3), {"pads": [1, 1]}),
    ((20, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ((6, 2, 3, 3), {"group": 2, "auto_pad": "SAME_UPPER"}),
    ((4, 1, 3, 3), {"group": 4, "dilations": [2, 1]}),
    ((4, 3, 2, 2, 2), {}),
]


@pytest.mark.parametrize(("filters", "options"), CONVOLUTIONS)
def test_convolution(filters: tuple[int, ...], options: dict[str, Any]) -> None:
    channels = filters[1] * options.get("group", 1)
    x = normal(2, channels, *range(6, 4 + len(filters)))
    arrays = {"x": x, "w": normal(*filters), "b": normal(filters[0])}
    Single("Conv", arrays, fixed=("w", "b"), symbolic=False, **options).check(**arrays)


TRANSPOSED: list[tuple[tuple[int, ...], bool, dict[str, Any]]] = [
    ((4, 3, 3, 3), False, {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 0]}),
    ((4, 2, 3, 3), True, {"group": 2, "strides": [2, 1]}),
    ((4, 3, 2, 3), True, {"dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    ((4, 3, 3, 3), True, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((4, 3, 3, 3), True, {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    ((4, 3, 3), True, {"group": 4, "strides": [3]}),
    ((4, 2, 2, 3, 2), True, {"strides": [1, 2, 1]}),
]


@pytest.mark.parametrize(("filters", "constant", "options"), TRANSPOSED)
def test_transposed_convolution(
    filters: tuple[int, ...], constant: bool, options: dict[str, Any]
) -> None:
    x = normal(2, filters[0], *range(3, 1 + len(filters)))
    arrays = {"x": x, "w": normal(*filters), "b": normal(filters[1] * options.get("group", 1))}
    constants = ("w", "b") if constant else ()
    model = Single("ConvTranspose", arrays, constants=constants, symbolic=False, **options)
    model.check(**{name: array for name, array in arrays.items() if name not in constants})


def test_transposed_convolution_to_a_given_shape() -> None:
    arrays = {"x": normal(1, 2, 4, 5), "w": normal(2, 3, 3, 3)}
    options = {"strides": [3, 2], "output_shape": [10, 8]}
    model = Single("ConvTranspose", arrays, constants=("w",), symbolic=False, **options)
    model.check(x=arrays["x"])

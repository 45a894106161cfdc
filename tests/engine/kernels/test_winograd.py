"""Minimal filtering: exact transforms, bounded error, chosen by one image's cost."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
from onnx import helper

import engine
from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.kernels.cook_toom import transforms
from engine.kernels.winograd import OUTPUTS
from engine.plan.lower import convolution
from engine.plan.lower.minimal_filtering import Filtering, filterings, may_filter
from engine.plan.store import PlanStore
from engine.plan.tensor import ONE, Buffer, Space, Tensor, row_major
from tests.engine.harness import ISAS
from tests.engine.models import serialise, tensor


def model(channels: int, outputs: int, seed: int = 0) -> tuple[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((outputs, channels, 3, 3)) / np.sqrt(9 * channels)).astype(
        np.float32
    )
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    inputs = [tensor("x", ["n", channels, "h", "w_"])]
    return serialise([node], inputs, ["y"], {"w": weight}), weight


def exact(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Convolution with padding 1 in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64), optimize=True)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_transforms_are_exact(outputs: int) -> None:
    forward, filters, basis = transforms(outputs, 3)
    data = [Fraction(v) for v in (3, -1, 4, 1, -5, 9)][: outputs + 2]
    taps = [Fraction(v) for v in (2, -7, 1)]
    spread = [sum(g * t for g, t in zip(row, taps, strict=True)) for row in filters]
    turned = [sum(b * d for b, d in zip(row, data, strict=True)) for row in basis]
    products = [s * t for s, t in zip(spread, turned, strict=True)]
    found = [sum(a * p for a, p in zip(row, products, strict=True)) for row in forward]
    assert found == [sum(data[i + k] * taps[k] for k in range(3)) for i in range(outputs)]


BOUNDS = {4: 3e-5, 2: 1e-5}
"""Largest error in units of the output's root mean square, by pixels per tile and axis."""


def load(content: bytes, size: int, isa: str | None = None) -> engine.Session:
    """A session that filters with tiles of `size` pixels per axis, whatever they cost."""

    def always(*arguments: Any) -> list[Filtering]:
        return [replace(each, pays=ONE) for each in filterings(*arguments[:4], (size,))]

    with (
        mock.patch.object(convolution, "filterings", always),
        mock.patch.object(PlanStore, "key", return_value=None),
    ):
        return engine.load(content, threads=2, isa=isa)


@pytest.mark.parametrize("size", OUTPUTS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("channels", "outputs", "height", "width"),
    [(8, 10, 19, 33), (16, 16, 40, 41), (64, 48, 57, 30), (33, 70, 24, 25), (256, 64, 20, 20)],
)
def test_error_is_bounded(
    isa: str, channels: int, outputs: int, height: int, width: int, size: int
) -> None:
    content, weight = model(channels, outputs)
    session = load(content, size, isa)
    kernels = {op.kernel for op in session.explain().operations}
    assert any("winograd" in kernel for kernel in kernels)
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_normal((2, channels, height, width)), 0).astype(np.float32)
    y, reference = session.run({"x": x})["y"], exact(x, weight)
    rms = np.sqrt((reference**2).mean())
    assert np.abs(y - reference).max() <= BOUNDS[size] * rms


def test_it_can_be_turned_off() -> None:
    content, _ = model(32, 40)
    kernels = {op.kernel for op in engine.load(content, winograd=False).explain().operations}
    assert not any("winograd" in kernel for kernel in kernels)


@pytest.mark.parametrize("size", OUTPUTS)
def test_an_image_alone_gives_the_bytes_it_gives_in_a_batch(size: int) -> None:
    content, _ = model(32, 40)
    session = load(content, size)
    x = np.random.default_rng(2).standard_normal((5, 32, 37, 50)).astype(np.float32)
    together = session.run({"x": x})["y"]
    for row in range(5):
        assert session.run({"x": x[row : row + 1]})["y"].tobytes() == together[row].tobytes()


def _pays(height: int, width: int, channels: int = 256, batch: int = 1) -> list[int]:
    """For each tile size, the largest first, whether it is chosen."""

    def image(size: int) -> Tensor:
        shape = tuple(Dim.of(d) for d in (batch, height, width, size))
        buffer = Buffer(Space.ARENA, 0, Dim.of(0), "t")
        return Tensor(np.dtype(np.float32), shape, row_major(shape), buffer)

    data = np.zeros((channels, channels, 3, 3), np.float32)
    weight = Value("w", data.dtype, tuple(Dim.of(d) for d in data.shape), data)
    return [each.pays.value for each in filterings(image(channels), image(channels), weight, [])]


def test_the_choice_follows_the_size_of_one_image() -> None:
    assert _pays(56, 56) == [1]
    assert _pays(7, 7) == [0]
    assert _pays(7, 7, batch=64) == [0]
    assert _pays(56, 56, batch=64) == [1]


def test_heavy_filters_of_small_images_take_small_tiles() -> None:
    assert _pays(4, 26, 512) == [0, 1]
    assert _pays(4, 26, 512, batch=8) == [0, 1]
    assert _pays(4, 81, 512) == [1, 0]
    assert _pays(2, 2, 512) == [0, 0]


def test_only_dense_3x3_windows_are_filtered() -> None:
    def conv(shape: tuple[int, ...], **attributes: object) -> Node:
        data = np.zeros(shape, np.float32)
        return Node("Conv", [None, Value("w", data.dtype, None, data)], [], dict(attributes))

    assert may_filter(conv((32, 32, 3, 3)))
    assert not may_filter(conv((32, 32, 3, 3), strides=[2, 2]))
    assert not may_filter(conv((32, 32, 3, 3), dilations=[2, 2]))
    assert not may_filter(conv((32, 32, 5, 5)))
    assert not may_filter(conv((32, 16, 3, 3), group=2))
    assert may_filter(conv((8, 32, 3, 3)))
    assert not may_filter(conv((7, 32, 3, 3)))

"""Heads that write channels-first: when, and that their results stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import engine
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS
from tests.engine.models import serialise, tensor

RNG = np.random.default_rng(3)
SIZES = [(1, 3, 3), (1, 9, 33), (3, 20, 47)]
"""Batch, height and width: fewer pixels than a vector, some tails, several strips."""


def network(channels: int, *nodes: onnx.NodeProto, outputs: list[str], **heads: Any) -> bytes:
    """A convolution to so many channels with a ReLU, called ``r``, then `nodes`."""
    stem = [
        helper.make_node("Conv", ["x", "stem"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    filters = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in heads.items()}
    filters["stem"] = RNG.standard_normal((channels, 5, 3, 3)).astype(np.float32)
    return serialise([*stem, *nodes], [tensor("x", ["n", 5, "h", "w"])], outputs, filters)


def kernels(model: bytes) -> list[str]:
    return [call.kernel for call in engine.load(model, threads=1).explain().operations]


def image(size: tuple[int, int, int]) -> dict[str, Any]:
    return {"x": RNG.standard_normal((size[0], 5, *size[1:])).astype(np.float32)}


def detector(channels: int) -> bytes:
    """Probabilities of two classes, and boxes of four numbers."""
    return network(
        channels,
        helper.make_node("Conv", ["r", "p", "b"], ["s"]),
        helper.make_node("Softmax", ["s"], ["scores"], axis=1),
        helper.make_node("Conv", ["r", "q", "d"], ["boxes"]),
        outputs=["scores", "boxes"],
        p=(2, channels, 1, 1),
        b=(2,),
        q=(4, channels, 1, 1),
        d=(4,),
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [5, 16, 32, 37])
def test_heads_with_a_softmax_among_them(channels: int, isa: str) -> None:
    model = detector(channels)
    session = engine.load(model, threads=2, isa=isa)
    found = [call.kernel for call in session.explain().operations]
    assert "heads" in found
    assert "copy_rows" not in found
    assert found.count("copy_tiles") <= 1, "results are transposed"
    reference = onnxruntime.InferenceSession(model)
    for size in SIZES:
        feeds = image(size)
        results = session.run(feeds)
        for got, wanted in zip(results.values(), reference.run(None, feeds), strict=True):
            assert_equal(got, wanted)


def test_an_image_alone_gives_the_bytes_it_gives_in_a_batch() -> None:
    model = detector(21)
    feeds = image((5, 23, 37))
    one, two = (engine.load(model, threads=threads) for threads in (1, 2))
    together = one.run(feeds)
    assert {name: a.tobytes() for name, a in two.run(feeds).items()} == {
        name: a.tobytes() for name, a in together.items()
    }
    for row in range(5):
        alone = one.run({"x": feeds["x"][row : row + 1]})
        assert all(alone[name].tobytes() == together[name][row].tobytes() for name in alone)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([helper.make_node("Conv", ["r", "p"], ["y"])], (13, 8, 1, 1)),
        ([helper.make_node("Conv", ["r", "p"], ["y"], strides=[2, 2])], (4, 8, 1, 1)),
        ([helper.make_node("Conv", ["r", "p"], ["y"], pads=[0, 1, 0, 0])], (4, 8, 1, 1)),
        ([helper.make_node("Conv", ["r", "p"], ["y"])], (4, 8, 1, 2)),
        ([helper.make_node("Conv", ["r", "p"], ["y"], group=2)], (4, 4, 1, 1)),
        (
            [
                helper.make_node("Conv", ["r", "p"], ["m"]),
                helper.make_node("MaxPool", ["m"], ["y"], kernel_shape=[2, 2]),
            ],
            (4, 8, 1, 1),
        ),
        (
            [
                helper.make_node("Conv", ["r", "p"], ["m"]),
                helper.make_node("Softmax", ["m"], ["y"], axis=2),
            ],
            (4, 8, 1, 1),
        ),
    ],
    ids=["wide", "step", "padded", "window", "groups", "goes on", "softmax of rows"],
)
def test_others_stay_convolutions(nodes: list[onnx.NodeProto], shape: tuple[int, ...]) -> None:
    model = network(8, *nodes, outputs=["y"], p=shape)
    assert "heads" not in kernels(model)
    feeds = image((2, 9, 18))
    expected = onnxruntime.InferenceSession(model).run(None, feeds)[0]
    assert_equal(engine.load(model, threads=1).run(feeds)["y"], expected)


def test_a_head_that_the_network_reads_too() -> None:
    """The result leaves, and a pooling reads it."""
    model = network(
        8,
        helper.make_node("Conv", ["r", "p"], ["y"]),
        helper.make_node("AveragePool", ["y"], ["z"], kernel_shape=[3, 3]),
        outputs=["y", "z"],
        p=(4, 8, 1, 1),
    )
    feeds = image((2, 9, 18))
    expected = onnxruntime.InferenceSession(model).run(None, feeds)
    results = engine.load(model, threads=1).run(feeds)
    for found, wanted in zip(results.values(), expected, strict=True):
        assert_equal(found, wanted)

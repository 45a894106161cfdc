"""Hand-written gradients against differences of the loss."""

from collections.abc import Callable

import numpy as np
import pytest

from examples.digits import layers

RANDOM = np.random.default_rng(3)
MAKERS: dict[str, Callable[[], layers.Layer]] = {
    "convolution": lambda: layers.Convolution(2, 3, RANDOM),
    "normalisation": lambda: layers.BatchNormalization(2),
    "relu": layers.Relu,
    "max pool": layers.MaxPool,
    "dense": lambda: layers.Dense(32, 5, RANDOM),
}


def input_array() -> layers.Array:
    # Well apart, so that a small step changes neither a sign nor which of a block is the largest.
    values = RANDOM.permutation(np.linspace(-2, 2, 3 * 4 * 4 * 2)) + 0.01
    return values.reshape(3, 4, 4, 2).astype("f4")


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_is_slope(name: str) -> None:
    layer = MAKERS[name]()
    x = input_array()
    weight = RANDOM.standard_normal(layer.forward(x, training=True).shape).astype("f4")

    def loss() -> float:
        return float((layer.forward(x, training=True).astype("f8") * weight).sum())

    loss()
    gradient = layer.backward(weight)
    for array, analytic in [(x, gradient), *zip(layer.parameters, layer.gradients, strict=True)]:
        flat = array.reshape(-1)
        for index in RANDOM.choice(flat.size, min(8, flat.size), replace=False):
            kept, step = flat[index], np.float32(1 / 128)
            flat[index] = kept + step
            above = loss()
            flat[index] = kept - step
            below = loss()
            flat[index] = kept
            slope = (above - below) / (2 * float(step))
            assert analytic.reshape(-1)[index] == pytest.approx(slope, rel=2e-2, abs=2e-2)


def test_cross_entropy_gradient_is_slope() -> None:
    logits = RANDOM.standard_normal((4, 10)).astype("f8")
    labels = np.array([1, 9, 0, 4])

    def loss() -> float:
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        target = 0.9 * np.eye(10)[labels] + 0.1 / 10
        return float(-(target * log).sum(1).mean())

    analytic = layers.cross_entropy_gradient(logits.astype("f4"), labels, smoothing=0.1)
    for index in [(0, 1), (1, 2), (3, 4)]:
        kept = logits[index]
        logits[index] = kept + 1e-4
        above = loss()
        logits[index] = kept - 1e-4
        below = loss()
        logits[index] = kept
        assert analytic[index] == pytest.approx((above - below) / 2e-4, abs=1e-5)

"""Layers of a small convolutional network with their gradients, in plain numpy.

Activations are float32, channels-last: [images, height, width, channels]. `forward` keeps what
`backward` needs; `backward` takes the loss gradient of the output, leaves those of the parameters
in `gradients` and returns that of the input.
"""

from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Layer(Protocol):
    """One step of the network; `parameters` and `gradients` are parallel lists."""

    parameters: list[Array]
    gradients: list[Array]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Output for the input `x`."""

    def backward(self, gradient: Array) -> Array:
        """Gradient of the input, from that of the output of the last `forward`."""


def _patches(x: Array) -> Array:
    """The 3x3 neighbourhood of every pixel, zero beyond the border: [images*height*width, 9*c]."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.ascontiguousarray(windows).reshape(-1, x.shape[3] * 9)


class Convolution:
    """3x3 convolution with stride 1 and zero padding, without bias (a normalisation follows).

    `weights` are [in_channels, 3, 3, out_channels], from He's initialisation (He et al., 2015).
    """

    def __init__(self, inputs: int, outputs: int, random: np.random.Generator) -> None:
        scale = np.sqrt(2 / (9 * inputs))
        self.weights: Array = (random.standard_normal((inputs, 3, 3, outputs)) * scale).astype("f4")
        self.parameters = [self.weights]
        self.gradients = [np.zeros_like(self.weights)]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Convolves `x` [n, h, w, inputs] to [n, h, w, outputs]."""
        self._columns = _patches(x)
        outputs = self.weights.shape[3]
        product: Array = self._columns @ self.weights.reshape(-1, outputs)
        return product.reshape(*x.shape[:3], outputs)

    def backward(self, gradient: Array) -> Array:
        """Convolves `gradient` with the kernel turned by 180 degrees."""
        inputs, _, _, outputs = self.weights.shape
        flat = gradient.reshape(-1, outputs)
        self.gradients[0] = (self._columns.T @ flat).reshape(self.weights.shape)
        turned = self.weights[:, ::-1, ::-1].transpose(3, 1, 2, 0).reshape(-1, inputs)
        back: Array = _patches(gradient) @ turned
        return back.reshape(*gradient.shape[:3], inputs)


class BatchNormalization:
    """Normalisation over the batch per channel, then scale and shift (Ioffe and Szegedy, 2015)."""

    def __init__(self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.9) -> None:
        self.epsilon, self.momentum = epsilon, momentum
        self.scale: Array = np.ones(channels, "f4")
        self.shift: Array = np.zeros(channels, "f4")
        self.mean: Array = np.zeros(channels, "f4")
        self.variance: Array = np.ones(channels, "f4")
        self.parameters = [self.scale, self.shift]
        self.gradients = [np.zeros_like(self.scale), np.zeros_like(self.shift)]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Normalises with the batch's statistics in training, else with their running means."""
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.mean = self.momentum * self.mean + (1 - self.momentum) * mean
            self.variance = self.momentum * self.variance + (1 - self.momentum) * variance
        self._deviation = np.sqrt(variance + self.epsilon).astype("f4")
        self._normal = (x - mean) / self._deviation
        result: Array = self._normal * self.scale + self.shift
        return result

    def backward(self, gradient: Array) -> Array:
        """Passes `gradient` back through the batch's statistics too."""
        axes = (0, 1, 2)
        self.gradients[0] = (gradient * self._normal).sum(axes)
        self.gradients[1] = gradient.sum(axes)
        inner = gradient * self.scale
        centred = inner - inner.mean(axes) - self._normal * (inner * self._normal).mean(axes)
        result: Array = centred / self._deviation
        return result


class Relu:
    """max(x, 0)."""

    def __init__(self) -> None:
        self.parameters: list[Array] = []
        self.gradients: list[Array] = []

    def forward(self, x: Array, *, training: bool) -> Array:
        """Clips `x` at zero from below."""
        self._positive = x > 0
        return x * self._positive

    def backward(self, gradient: Array) -> Array:
        """Lets `gradient` pass where the input was positive."""
        return gradient * self._positive


class MaxPool:
    """Maximum of each 2x2 block; height and width are even."""

    def __init__(self) -> None:
        self.parameters: list[Array] = []
        self.gradients: list[Array] = []

    def forward(self, x: Array, *, training: bool) -> Array:
        """Halves height and width."""
        images, height, width, channels = x.shape
        blocks = x.reshape(images, height // 2, 2, width // 2, 2, channels)
        top: Array = blocks.max((2, 4))
        is_top = blocks == top[:, :, None, :, None]
        self._share = (is_top / is_top.sum((2, 4), keepdims=True)).astype("f4")
        return top

    def backward(self, gradient: Array) -> Array:
        """Gives `gradient` to the largest of each block; equal ones share it."""
        images, height, width, channels = gradient.shape
        spread = self._share * gradient[:, :, None, :, None]
        result: Array = spread.reshape(images, height * 2, width * 2, channels)
        return result


class Dense:
    """Flattens each image and applies `x @ weights + bias`."""

    def __init__(self, inputs: int, outputs: int, random: np.random.Generator) -> None:
        scale = np.sqrt(1 / inputs)
        self.weights: Array = (random.standard_normal((inputs, outputs)) * scale).astype("f4")
        self.bias: Array = np.zeros(outputs, "f4")
        self.parameters = [self.weights, self.bias]
        self.gradients = [np.zeros_like(self.weights), np.zeros_like(self.bias)]

    def forward(self, x: Array, *, training: bool) -> Array:
        """Multiplies [n, ...] flattened by the weights to [n, outputs]."""
        self._shape = x.shape
        self._flat = x.reshape(len(x), -1)
        product: Array = self._flat @ self.weights + self.bias
        return product

    def backward(self, gradient: Array) -> Array:
        """Multiplies `gradient` by the transposed weights."""
        self.gradients[0] = self._flat.T @ gradient
        self.gradients[1] = gradient.sum(0)
        back: Array = gradient @ self.weights.T
        return back.reshape(self._shape)


def softmax(logits: Array) -> Array:
    """Probabilities of each row."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def cross_entropy_gradient(logits: Array, labels: NDArray[np.int64], smoothing: float) -> Array:
    """Gradient of the mean cross entropy after softmax, labels smoothed (Szegedy et al., 2016)."""
    rows, classes = logits.shape
    target = np.full((rows, classes), smoothing / classes, "f4")
    target[np.arange(rows), labels] += 1 - smoothing
    result: Array = (softmax(logits) - target) / np.float32(rows)
    return result

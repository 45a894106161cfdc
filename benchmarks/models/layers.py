"""Layers that several of the networks share, with weights scaled so that values stay O(1)."""

from typing import Literal

import numpy as np

from benchmarks.models.graph import Array, GraphBuilder

Activation = Literal["relu", "relu6", "none"]


def conv(
    b: GraphBuilder,
    x: str,
    channels: tuple[int, int],
    kernel: tuple[int, int] = (3, 3),
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    bias: bool = False,
    gain: float = 1.4142135,
) -> str:
    """Convolution of (in, out) channels; x is [batch, in, height, width]."""
    fan_in = channels[0] // groups * kernel[0] * kernel[1]
    pads = (padding, padding) if isinstance(padding, int) else padding
    inputs = [x, b.weight(b.gaussian((channels[1], channels[0] // groups, *kernel), fan_in, gain))]
    if bias:
        inputs.append(b.weight(b.gaussian((channels[1],), 1.0, 0.1), "bias"))
    return b.op(
        "Conv",
        *inputs,
        kernel_shape=list(kernel),
        strides=[stride, stride],
        pads=[*pads, *pads],
        dilations=[1, 1],
        group=groups,
    )


def batch_norm(b: GraphBuilder, x: str, channels: int, scale: float = 1.0) -> str:
    """Inference-mode BatchNormalization with the statistics of the sample behind `x`.

    The statistics are blurred by a few percent, since those of a training set are never exactly
    those of one batch. `scale` is the mean of the learned scale.
    """
    mean, variance = _channel_statistics(b.samples[x])
    blur = b.rng.standard_normal((2, channels))
    parameters = (
        ("scale", scale * b.rng.uniform(0.6, 1.4, channels)),
        ("bias", 0.2 * b.rng.standard_normal(channels)),
        ("mean", mean + 0.03 * np.sqrt(variance) * blur[0]),
        ("variance", variance * np.exp(0.05 * blur[1])),
    )
    names = [b.weight(array.astype(np.float32), f"bn_{role}") for role, array in parameters]
    return b.op("BatchNormalization", x, *names, epsilon=1e-5)


def conv_bn(
    b: GraphBuilder,
    x: str,
    channels: tuple[int, int],
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    activation: Activation = "relu",
    scale: float = 1.0,
) -> str:
    """Convolution with "same" padding, BatchNormalization and activation as separate nodes."""
    x = conv(
        b,
        x,
        channels,
        (kernel, kernel),
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=bias,
    )
    x = batch_norm(b, x, channels[1], scale)
    if activation == "relu":
        return b.op("Relu", x)
    if activation == "relu6":
        bounds = [b.weight(np.array(v, np.float32), "bound") for v in (0.0, 6.0)]
        return b.op("Clip", x, *bounds)
    return x


def gemm(b: GraphBuilder, x: str, features: tuple[int, int], gain: float = 1.0) -> str:
    """Fully connected layer on [batch, in], weights stored [out, in] as torch exports them."""
    w = b.weight(b.gaussian((features[1], features[0]), features[0], gain))
    bias = b.weight(b.gaussian((features[1],), 1.0, 0.1), "bias")
    return b.op("Gemm", x, w, bias, alpha=1.0, beta=1.0, transB=1)


def linear(b: GraphBuilder, x: str, features: tuple[int, int], gain: float = 1.0) -> str:
    """Fully connected layer on [..., in] as MatMul and Add."""
    w = b.weight(b.gaussian(features, features[0], gain))
    bias = b.weight(b.gaussian((features[1],), 1.0, 0.1), "bias")
    return b.op("Add", bias, b.op("MatMul", x, w))


def shape_tensor(b: GraphBuilder, x: str, *dims: int | str) -> str:
    """A 1-D int64 shape whose string entries "0", "1".. are axes of x, read at run time.

    This is the Shape, Gather, Unsqueeze, Concat chain that tracing exporters leave behind.
    """
    axes = b.weight(np.array([0], np.int64), "axes")
    parts = []
    for dim in dims:
        if isinstance(dim, int):
            parts.append(b.weight(np.array([dim], np.int64), "dim"))
            continue
        axis = b.weight(np.array(int(dim), np.int64), "axis")
        scalar = b.op("Gather", b.op("Shape", x), axis, axis=0)
        parts.append(b.op("Unsqueeze", scalar, axes))
    return b.op("Concat", *parts, axis=0)


def bidirectional(
    b: GraphBuilder,
    cell: Literal["LSTM", "GRU"],
    x: str,
    features: int,
    hidden: int,
    *,
    zero_state: bool,
) -> str:
    """Bidirectional recurrent layer: [length, batch, features] to [length, batch, 2 * hidden].

    With `zero_state` the initial states are written out as constants of a run-time shape, as torch
    exports them; otherwise they are left out.
    """
    gates = {"LSTM": 4, "GRU": 3}[cell]
    inputs = [
        x,
        b.weight(b.gaussian((2, gates * hidden, features), features)),
        b.weight(b.gaussian((2, gates * hidden, hidden), hidden), "recurrence"),
        b.weight(b.gaussian((2, 2 * gates * hidden), 1.0, 0.1), "bias"),
        "",
    ]
    if zero_state:
        state = b.op("ConstantOfShape", shape_tensor(b, x, 2, "1", hidden))
        inputs += [state, state] if cell == "LSTM" else [state]
    else:
        inputs.pop()
    attributes = {"hidden_size": hidden, "direction": "bidirectional"}
    if cell == "GRU":
        attributes["linear_before_reset"] = 1
    y = b.node(cell, inputs, 1, attributes)[0]
    y = b.op("Transpose", y, perm=[0, 2, 1, 3])
    return b.op("Reshape", y, b.weight(np.array([0, 0, 2 * hidden], np.int64), "shape"))


def image_sample(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Normalised images [batch, channels, height, width]: coarse structure with noise on it.

    White noise alone averages out in pooling layers, and every image would get one answer.
    """
    n, c, h, w = shape
    cell = 16
    coarse = rng.standard_normal((n, c, -(-h // cell), -(-w // cell)), dtype=np.float32)
    coarse = coarse.repeat(cell, 2).repeat(cell, 3)[:, :, :h, :w]
    noise = rng.standard_normal(shape, dtype=np.float32)
    return np.ascontiguousarray(coarse + np.float32(0.3) * noise)


def _channel_statistics(sample: Array) -> tuple[Array, Array]:
    axes = (0, *range(2, sample.ndim))
    wide = sample.astype(np.float64)
    return wide.mean(axes), wide.var(axes) + 1e-3

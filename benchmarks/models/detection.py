"""Networks for faces and text: MTCNN's P-Net (arXiv 1604.02878) and CRNN (arXiv 1507.05717)."""

import numpy as np
import onnx

from benchmarks.models.graph import GraphBuilder
from benchmarks.models.layers import batch_norm, bidirectional, conv, image_sample, linear

CHARACTERS = 37


def pnet(stride: int = 1) -> onnx.ModelProto:
    """P-Net: image [batch, 3, height, width] to face probability and box offsets.

    Outputs have about half the height and width; the pooling rounds up. A `stride` of the first two
    convolutions makes the same network of less work.
    """
    b = GraphBuilder("pnet", 12)
    image: list[int | str] = ["batch", 3, "height", "width"]
    x = b.input("image", image, sample=image_sample(b.rng, (2, 3, 96, 96)))
    width = 3
    for index, channels in enumerate((10, 16, 32)):
        x = conv(b, x, (width, channels), (3, 3), stride=stride if index < 2 else 1, bias=True)
        slope = b.rng.uniform(0.05, 0.4, (channels, 1, 1)).astype(np.float32)
        x = b.op("PRelu", x, b.weight(slope, "slope"))
        if index == 0:
            x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        width = channels
    score = conv(b, x, (width, 2), (1, 1), bias=True, gain=1.0)
    boxes = conv(b, x, (width, 4), (1, 1), bias=True, gain=1.0)
    rows = ["out_height", "out_width"]
    b.output("probability", b.op("Softmax", score, axis=1), ["batch", 2, *rows])
    b.output("boxes", boxes, ["batch", 4, *rows])
    return b.model()


def crnn() -> onnx.ModelProto:
    """CRNN: grey text line [batch, 1, 32, width] to scores [width / 4 + 1, batch, 37]."""
    b = GraphBuilder("crnn", 7)
    sample = image_sample(b.rng, (4, 1, 32, 160))
    x = b.input("image", ["batch", 1, 32, "width"], sample=sample)
    width = 1
    plan = ((64, False), (128, False), (256, True), (256, False), (512, True), (512, False))
    for index, (channels, normalised) in enumerate(plan):
        x = conv(b, x, (width, channels), (3, 3), padding=1, bias=True)
        if normalised:
            x = batch_norm(b, x, channels)
        x = b.op("Relu", x)
        if index < 2:
            x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        elif not normalised:
            x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 1])
        width = channels
    x = b.op("Relu", batch_norm(b, conv(b, x, (512, 512), (2, 2), bias=True), 512))
    x = b.op("Squeeze", x, b.weight(np.array([2], np.int64), "axes"))
    x = b.op("Transpose", x, perm=[2, 0, 1])
    x = bidirectional(b, "LSTM", x, 512, 256, zero_state=True)
    x = linear(b, x, (512, 256), gain=2.0)
    x = bidirectional(b, "LSTM", x, 256, 256, zero_state=True)
    b.output("scores", linear(b, x, (512, CHARACTERS), gain=3.0), ["steps", "batch", CHARACTERS])
    return b.model()

"""Convolutional networks for images: ResNet-50, MobileNetV2 and VGG-16.

Topologies after the papers (arXiv 1512.03385, 1801.04381, 1409.1556) in the form that trained
exports have: stride on the 3x3 of ResNet's bottleneck, VGG-16 with BatchNormalization.
"""

import onnx

from benchmarks.models.graph import GraphBuilder
from benchmarks.models.layers import conv_bn, gemm, image_sample

CLASSES = 1000
SAMPLE = (12, 3, 96, 96)


def resnet50() -> onnx.ModelProto:
    """ResNet-50: image [batch, 3, height, width] to logits [batch, 1000]."""
    b, x = _image_graph("resnet50", 50)
    x = conv_bn(b, x, (3, 64), 7, stride=2)
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        middle = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = conv_bn(b, x, (width, middle), 1)
            y = conv_bn(b, y, (middle, middle), 3, stride=stride)
            y = conv_bn(b, y, (middle, 4 * middle), 1, activation="none", scale=0.5)
            if not block:
                x = conv_bn(b, x, (width, 4 * middle), 1, stride=stride, activation="none")
            width = 4 * middle
            x = b.op("Relu", b.op("Add", y, x))
    return _classifier(b, x, width)


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNetV2 (width 1.0): image [batch, 3, height, width] to logits [batch, 1000]."""
    b, x = _image_graph("mobilenet_v2", 2)
    x = conv_bn(b, x, (3, 32), 3, stride=2, activation="relu6")
    width = 32
    for expansion, channels, repeats, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            inner = width * expansion
            y = x
            if expansion != 1:
                y = conv_bn(b, y, (width, inner), 1, activation="relu6")
            y = conv_bn(b, y, (inner, inner), 3, stride=stride, groups=inner, activation="relu6")
            y = conv_bn(b, y, (inner, channels), 1, activation="none", scale=0.7)
            x = b.op("Add", x, y) if stride == 1 and width == channels else y
            width = channels
    x = conv_bn(b, x, (width, 1280), 1, activation="relu6")
    return _classifier(b, x, 1280)


def vgg16() -> onnx.ModelProto:
    """VGG-16 with BatchNormalization: image [batch, 3, 224, 224] to logits [batch, 1000].

    Height and width are fixed by the fully connected layers, as in every export of it.
    """
    b, x = _image_graph("vgg16", 16, spatial=(224, 224), sample=(2, 3, 224, 224))
    width = 3
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = conv_bn(b, x, (width, channels), 3, bias=True)
            width = channels
        x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Flatten", x, axis=1)
    x = b.op("Relu", gemm(b, x, (512 * 7 * 7, 4096), gain=1.4142135))
    x = b.op("Relu", gemm(b, x, (4096, 4096), gain=1.4142135))
    b.output("logits", gemm(b, x, (4096, CLASSES)), ["batch", CLASSES])
    return b.model()


def _image_graph(
    name: str,
    seed: int,
    spatial: tuple[int | str, int | str] = ("height", "width"),
    sample: tuple[int, int, int, int] = SAMPLE,
) -> tuple[GraphBuilder, str]:
    b = GraphBuilder(name, seed)
    return b, b.input("image", ["batch", 3, *spatial], sample=image_sample(b.rng, sample))


def _classifier(b: GraphBuilder, x: str, width: int) -> onnx.ModelProto:
    x = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    b.output("logits", gemm(b, x, (width, CLASSES), gain=1.4142135), ["batch", CLASSES])
    return b.model()

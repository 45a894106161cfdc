"""Train the digit classifier and write its ONNX file, its held-out digits and a few images.

    python -m examples.digits.train

Data: the 1,797 handwritten digits of 8x8 pixels inside scikit-learn (Alpaydin and Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, CC BY 4.0). One digit in five,
drawn per class with a fixed seed, is never trained on. Training takes about a minute on one core.
"""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from examples.digits import layers
from examples.digits.layers import Array

FOLDER = Path(__file__).resolve().parent
MODEL = FOLDER / "digits.onnx"
HELD_OUT = FOLDER / "held_out.npz"
IMAGES = FOLDER / "images"
SEED = 20
Labels = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Split:
    """Digits to train on and digits held out: pixels [n, 8, 8] of 0..255 and labels [n] of 0..9."""

    train_pixels: Pixels
    train_labels: Labels
    test_pixels: Pixels
    test_labels: Labels


def load_digits() -> Split:
    """The digits inside scikit-learn, with one in five of every class held out."""
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(labels))
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        members = order[labels[order] == digit]
        held_out[members[: len(members) // 5]] = True
    return Split(pixels[~held_out], labels[~held_out], pixels[held_out], labels[held_out])


def network_input(pixels: Pixels) -> Array:
    """Pixels [n, 8, 8] of 0..255 as the network's channels-last input [n, 8, 8, 1] of 0..1."""
    return pixels[..., None].astype(np.float32) / np.float32(255)


class Classifier:
    """Three 3x3 convolutions with normalisation, a pooling and a dense layer to ten classes."""

    def __init__(self, random: np.random.Generator) -> None:
        self.layers: list[layers.Layer] = []
        for position, (inputs, outputs) in enumerate([(1, 16), (16, 32), (32, 32)]):
            self.layers.append(layers.Convolution(inputs, outputs, random))
            self.layers.append(layers.BatchNormalization(outputs))
            self.layers.append(layers.Relu())
            if position == 1:
                self.layers.append(layers.MaxPool())
        self.layers.append(layers.Dense(4 * 4 * 32, 10, random))

    def logits(self, x: Array, *, training: bool = False) -> Array:
        """Logits [n, 10] of images [n, 8, 8, 1]."""
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def backward(self, gradient: Array) -> None:
        """Leaves the gradients of all parameters, from that of the logits."""
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)


class Adam:
    """Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(self, network: Classifier, decay: float = 1e-3) -> None:
        self.network, self.decay, self.step_count = network, decay, 0
        parameters = [array for layer in network.layers for array in layer.parameters]
        self.first = [np.zeros_like(array) for array in parameters]
        self.second = [np.zeros_like(array) for array in parameters]

    def step(self, rate: float) -> None:
        """Moves every parameter once, with the learning rate `rate`."""
        self.step_count += 1
        index = 0
        for layer in self.network.layers:
            for parameter, gradient in zip(layer.parameters, layer.gradients, strict=True):
                first, second = self.first[index], self.second[index]
                first += (gradient - first) * np.float32(0.1)
                second += (gradient**2 - second) * np.float32(0.001)
                unbiased = first / (1 - 0.9**self.step_count)
                spread = np.sqrt(second / (1 - 0.999**self.step_count)) + 1e-8
                decay = self.decay if parameter.ndim > 1 else 0.0
                parameter -= (rate * (unbiased / spread + decay * parameter)).astype("f4")
                index += 1


def augmented(x: Array, random: np.random.Generator) -> Array:
    """Each image [n, 8, 8, 1] moved by at most one pixel and a little brighter or darker."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = random.integers(0, 3, (2, len(x)))
    y, z = np.arange(8)[None, :, None], np.arange(8)[None, None, :]
    moved = padded[
        np.arange(len(x))[:, None, None], y + rows[:, None, None], z + columns[:, None, None]
    ]
    gain = random.uniform(0.85, 1.15, (len(x), 1, 1, 1))
    noise = random.normal(0, 0.03, moved.shape)
    clipped: Array = np.clip(moved * gain + noise, 0, 1).astype(np.float32)
    return clipped


def train(split: Split, epochs: int, batch: int = 64) -> Classifier:
    """A classifier trained on `split`; prints the held-out accuracy now and then."""
    random = np.random.default_rng(SEED)
    network = Classifier(random)
    optimiser = Adam(network)
    x, labels = network_input(split.train_pixels), split.train_labels
    steps = epochs * (len(x) // batch)
    for epoch in range(1, epochs + 1):
        order = random.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            logits = network.logits(augmented(x[rows], random), training=True)
            network.backward(layers.cross_entropy_gradient(logits, labels[rows], smoothing=0.05))
            progress = optimiser.step_count / steps
            optimiser.step(3e-3 * 0.5 * (1 + float(np.cos(np.pi * progress))))
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch}/{epochs}: held-out accuracy {accuracy(network, split):.2%}")
    return network


def accuracy(network: Classifier, split: Split) -> float:
    """Share of the held-out digits that are classified right."""
    guesses = network.logits(network_input(split.test_pixels)).argmax(1)
    return float((guesses == split.test_labels).mean())


def source_digest() -> str:
    """SHA-256 of the sources that decide what the model is; kept in the model as metadata."""
    sources = (FOLDER / "layers.py").read_bytes() + Path(__file__).read_bytes()
    return hashlib.sha256(sources).hexdigest()


def to_onnx(network: Classifier, metadata: dict[str, str]) -> onnx.ModelProto:
    """The trained network as ONNX: `image` float[N,1,8,8] of 0..1 to `probabilities` [N,10]."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value, count = "image", 0

    def add(op: str, arrays: dict[str, Array], **attributes: Any) -> None:
        nonlocal value, count
        count += 1
        names = [f"{op.lower()}_{count}_{name}" for name in arrays]
        constants.extend(map(numpy_helper.from_array, arrays.values(), names))
        result = f"{op.lower()}_{count}"
        nodes.append(helper.make_node(op, [value, *names], [result], name=result, **attributes))
        value = result

    for layer in network.layers:
        if isinstance(layer, layers.Convolution):
            kernel = np.ascontiguousarray(layer.weights.transpose(3, 0, 1, 2))
            add("Conv", {"weights": kernel}, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif isinstance(layer, layers.BatchNormalization):
            arrays = {"scale": layer.scale, "shift": layer.shift, "mean": layer.mean}
            arrays["variance"] = layer.variance
            add("BatchNormalization", arrays, epsilon=layer.epsilon)
        elif isinstance(layer, layers.Relu):
            add("Relu", {})
        elif isinstance(layer, layers.MaxPool):
            add("MaxPool", {}, kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(layer, layers.Dense):
            # Training flattens channels-last, ONNX channels-first.
            weights = layer.weights.reshape(4, 4, 32, 10).transpose(2, 0, 1, 3).reshape(512, 10)
            add("Flatten", {}, axis=1)
            add("Gemm", {"weights": np.ascontiguousarray(weights), "bias": layer.bias})
    add("Softmax", {}, axis=1)
    nodes[-1].output[0] = "probabilities"
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        constants,
        doc_string="Handwritten digits, 8x8 grey pixels of 0..1 (white on black), ten classes.",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "examples.digits.train"
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_images(split: Split, per_digit: int = 2) -> None:
    """Writes the first held-out images of every digit as `<label>-<letter>.png`."""
    IMAGES.mkdir(exist_ok=True)
    for digit in range(10):
        members = np.flatnonzero(split.test_labels == digit)[:per_digit]
        for letter, member in zip("abcdefghij", members, strict=False):
            Image.fromarray(split.test_pixels[member]).save(IMAGES / f"{digit}-{letter}.png")


def main() -> None:
    """Command line: trains and writes the model, or only trains with `--dry-run`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--dry-run", action="store_true", help="train and print, write nothing")
    arguments = parser.parse_args()
    split = load_digits()
    network = train(split, arguments.epochs)
    share = accuracy(network, split)
    if arguments.dry_run:
        return
    metadata = {
        "held_out_accuracy": f"{share:.4f}",
        "epochs": str(arguments.epochs),
        "seed": str(SEED),
        "sources_sha256": source_digest(),
    }
    MODEL.write_bytes(to_onnx(network, metadata).SerializeToString(deterministic=True))
    np.savez_compressed(HELD_OUT, pixels=split.test_pixels, labels=split.test_labels)
    write_images(split)
    print(f"{MODEL.name}: {MODEL.stat().st_size / 1000:.0f} kB, {share:.2%} of held-out digits")


if __name__ == "__main__":
    main()

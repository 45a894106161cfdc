"""The shipped digit classifier: what the script writes, how well it classifies, on which engine."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import engine
from examples.digits import layers, train


@pytest.fixture(scope="module")
def held_out() -> tuple[train.Pixels, train.Labels]:
    with np.load(train.HELD_OUT) as data:
        return data["pixels"], data["labels"]


def metadata() -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(train.MODEL).metadata_props}


def as_request(pixels: train.Pixels) -> layers.Array:
    return (pixels[:, None] / 255).astype(np.float32)


def test_accuracy_as_stated(held_out: tuple[train.Pixels, train.Labels]) -> None:
    pixels, labels = held_out
    session = engine.load(train.MODEL)
    result = session.run({"image": as_request(pixels)})["probabilities"]
    session.close()
    share = float((result.argmax(1) == labels).mean())
    assert share >= 0.985
    assert f"{share:.4f}" == metadata()["held_out_accuracy"]
    assert f"{share:.1%}" in (train.FOLDER / "README.md").read_text()
    oracle = onnxruntime.InferenceSession(train.MODEL)
    expected = oracle.run(None, {"image": as_request(pixels)})[0]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 + 1e-5)


def test_every_image_is_classified_as_its_name(
    held_out: tuple[train.Pixels, train.Labels],
) -> None:
    pixels, labels = held_out
    files = sorted(train.IMAGES.glob("*.png"))
    assert {int(file.name[0]) for file in files} == set(range(10))
    oracle = onnxruntime.InferenceSession(train.MODEL)
    for file in files:
        image = np.asarray(Image.open(file))
        assert (pixels[labels == int(file.name[0])] == image).all((1, 2)).any(), file
        guess = oracle.run(None, {"image": as_request(image[None])})[0].argmax()
        assert guess == int(file.name[0]), file


def test_committed_model_is_what_the_sources_write() -> None:
    assert metadata()["sources_sha256"] == train.source_digest(), "run examples.digits.train again"
    assert metadata()["seed"] == str(train.SEED)
    assert train.MODEL.stat().st_size < 300_000


def test_exported_model_computes_the_network(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    network = train.Classifier(random)
    pixels = random.integers(0, 256, (7, 8, 8), dtype=np.uint8)
    for _ in range(3):
        network.logits(train.network_input(pixels), training=True)
    expected = layers.softmax(network.logits(train.network_input(pixels)))
    model = train.to_onnx(network, {"key": "value"})
    oracle = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_allclose(oracle.run(None, {"image": as_request(pixels)})[0], expected, 1e-4)


def test_held_out_digits_are_the_split(held_out: tuple[train.Pixels, train.Labels]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is in the extra `bench`")
    split = train.load_digits()
    np.testing.assert_array_equal(split.test_pixels, held_out[0])
    np.testing.assert_array_equal(split.test_labels, held_out[1])
    assert len(split.train_labels) + len(split.test_labels) == 1797


def test_two_epochs_learn() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is in the extra `bench`")
    split = train.load_digits()
    network = train.train(split, epochs=2)
    assert train.accuracy(network, split) > 0.8

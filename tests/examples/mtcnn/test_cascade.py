"""The cascade on a real photo: the same faces as with onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from examples.mtcnn.__main__ import NETWORKS, opened
from examples.mtcnn.cascade import Array, Cascade, Networks, Run, cropped


def peer(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


def test_the_same_faces_as_with_onnxruntime(models: Path) -> None:
    with Image.open(models / "mtcnn/inputs/people3.jpeg") as photo:
        image = photo.convert("RGB")
    ours = Cascade(opened(models, 2), 40)(image)
    reference = Cascade(Networks(*(peer(models / f"{name}.onnx") for name in NETWORKS)), 40)(image)
    assert ours.counts == reference.counts
    assert ours.counts[2] == 3
    np.testing.assert_allclose(ours.boxes, reference.boxes, atol=0.05)
    assert ours.embeddings is not None
    assert reference.embeddings is not None
    np.testing.assert_allclose(ours.embeddings, reference.embeddings, atol=1e-3)


def test_a_photo_without_anything_on_it() -> None:
    def nothing(inputs: dict[str, Array]) -> dict[str, Array]:
        _, width, height, _ = inputs["input_1"].shape
        cells = (1, (width - 10 + 1) // 2, (height - 10 + 1) // 2)
        return {"softmax": np.zeros((*cells, 2)), "conv2d_4": np.zeros((*cells, 4))}

    def never(inputs: dict[str, Array]) -> dict[str, Array]:
        raise AssertionError("there is nothing to refine")

    faces = Cascade(Networks(nothing, never, never, never))(Image.new("RGB", (64, 48)))
    assert faces.counts == (0, 0, 0)
    assert faces.embeddings is not None
    assert faces.embeddings.shape == (0, 128)


def test_crops_are_zero_outside_the_image() -> None:
    image = Image.new("RGB", (20, 20), (200, 200, 200))
    pixels = np.asarray(cropped(image, np.array([-10.0, 0.0, 10.0, 20.0]), 20))
    assert pixels[:, :9].max() == 0
    assert pixels[:, 11:].min() == 200

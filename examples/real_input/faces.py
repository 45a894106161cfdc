"""Faces: single-shot detectors, the cascade of `examples.mtcnn`, and embeddings of its faces."""

from pathlib import Path

import numpy as np
from PIL import Image

from examples.mtcnn.boxes import squares
from examples.mtcnn.cascade import EMBEDDED, Cascade, Networks, cropped
from examples.real_input.case import Array, Case, Open, Outcome
from examples.real_input.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    channels_first,
    files,
    normalised,
    rgb,
)

SMALLEST_FACE = 40
FACES = {
    "astronaut.png": 1,
    "people1.jpeg": 10,
    "people2.jpeg": 2,
    "people3.jpeg": 3,
    "people4.jpeg": 2,
}
"""Faces on the photos, counted by eye."""


def ultraface(name: str, model: str) -> Case:
    """Anchors with a face on five photos."""

    def solve(models: Path, open_: Open) -> Outcome:
        run = open_(f"ultraface/{model}.onnx")
        counts = {}
        for path in files(models / "mtcnn/inputs", ".png", ".jpeg"):
            image = channels_first(normalised(rgb(path, (320, 240)), 127, 128))
            counts[path.name] = int((run({"input": image})["scores"][0, :, 1] > 0.7).sum())
        found = counts["people3.jpeg"], counts["astronaut.png"]
        return Outcome(
            f"{found[0]} and {found[1]} anchors on people3 and astronaut",
            "faces on both",
            min(found) > 0,
        )

    return Case(name, solve)


def _cascade(open_: Open) -> Cascade:
    nets = (open_(f"mtcnn/{name}.onnx") for name in ("pnet", "rnet", "onet"))
    return Cascade(Networks(*nets), SMALLEST_FACE)


def mtcnn(models: Path, open_: Open) -> Outcome:
    """The cascade on five photos: every level of the pyramid and every number of candidates."""
    cascade = _cascade(open_)
    texts, faces = [], []
    for path in files(models / "mtcnn/inputs", ".png", ".jpeg"):
        with Image.open(path) as image:
            counts = cascade(image.convert("RGB")).counts
        texts.append(" → ".join(map(str, counts)))
        faces.append(counts[-1])
    expected = list(FACES.values())
    return Outcome(
        f"candidates → faces: {'; '.join(texts)}",
        f"{', '.join(map(str, expected))} faces",
        faces == expected,
    )


def mobilefacenet(models: Path, open_: Open) -> Outcome:
    """Embeddings of the faces that the cascade finds, against mirror images and each other."""
    cascade = _cascade(open_)
    embed = open_("mobilefacenet/MobileFaceNet.onnx")
    straight: list[Array] = []
    mirrored: list[Array] = []
    for path in files(models / "mtcnn/inputs", ".png", ".jpeg"):
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        for box in squares(cascade(image).boxes):
            face = cropped(image, box, EMBEDDED)
            pixels = normalised(np.asarray(face), IMAGENET_MEAN, IMAGENET_STD)
            for view, vectors in ((pixels, straight), (pixels[:, ::-1], mirrored)):
                vector = embed({"input0": channels_first(view)})["output0"][0]
                vectors.append(vector / np.linalg.norm(vector))
    cosines = np.array(straight) @ np.array(mirrored).T
    same = float(cosines.diagonal().min())
    other = float(cosines[~np.eye(len(cosines), dtype=bool)].max())
    return Outcome(
        f"cosine with its own mirror image >= {same:.2f}, with another face <= {other:.2f}",
        "own above others",
        same > other,
    )


CASES = (
    ultraface("ultraface_rfb", "version-RFB-320"),
    ultraface("ultraface_slim", "version-slim-320_without_postprocessing"),
    Case("mtcnn", mtcnn),
    Case("mobilefacenet", mobilefacenet),
)

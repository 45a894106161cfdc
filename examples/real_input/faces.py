"""Faces: single-shot detectors, the three-stage cascade, and embeddings of what it finds.

The cascade follows K. Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", 2016: candidates on an image pyramid, refined twice.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from examples.real_input.case import Array, Case, Open, Outcome, Run
from examples.real_input.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    channels_first,
    files,
    normalised,
    resized,
    rgb,
)

SMALLEST_FACE = 40
PYRAMID_STEP = 0.709
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


def overlap(box: Array, others: Array, *, of_smaller: bool) -> Array:
    """Intersection of a box [4] with others [n, 4], over the union or the smaller area."""
    edges = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inside = np.prod(np.maximum(edges, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    area = float(np.prod(box[2:] - box[:2]))
    whole = np.minimum(area, areas) if of_smaller else area + areas - inside
    result: Array = inside / whole
    return result


def suppressed(boxes: Array, scores: Array, limit: float, *, of_smaller: bool = False) -> Array:
    """Indices of the boxes that stay when weaker ones overlapping by more than `limit` go."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        kept.append(order[0])
        rest = order[1:]
        order = rest[overlap(boxes[order[0]], boxes[rest], of_smaller=of_smaller) <= limit]
    return np.array(kept, np.int64)


def refined(boxes: Array, shifts: Array) -> Array:
    """Boxes [n, 4] with their edges moved by `shifts` [n, 4], in units of their size."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    result: Array = boxes + shifts * np.tile(sizes, 2)
    return result


def squares(boxes: Array) -> Array:
    """The smallest squares around boxes [n, 4], about the same centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def cropped(image: Image.Image, box: Array) -> Image.Image:
    """One box [4] cut out, zero outside the image."""
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    return image.crop((left, top, right, bottom))


def crops(image: Image.Image, boxes: Array, side: int) -> Array:
    """Boxes cut out as [n, side, side, 3] of -1..1, zero outside, x before y as MTCNN has them."""
    cut = [np.asarray(resized(cropped(image, box), (side, side))) for box in boxes]
    pixels = np.stack(cut).transpose(0, 2, 1, 3)
    return normalised(pixels, 127.5, 128)


def candidates(run: Run, image: Image.Image) -> Array:
    """First stage: squares [n, 4] around what looks like a face on any level of the pyramid."""
    boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
    scale = 12 / SMALLEST_FACE
    while min(image.size) * scale >= 12:
        size = round(image.width * scale), round(image.height * scale)
        level = normalised(np.asarray(resized(image, size)).transpose(1, 0, 2), 127.5, 128)
        answer = run({"input_1": np.ascontiguousarray(level[None])})
        score = answer["softmax"][0, :, :, 1]
        x, y = np.nonzero(score >= 0.6)
        corner = np.stack([x, y], 1) * 2.0
        found = np.concatenate([corner, corner + 12], 1) / scale
        found = refined(found, answer["conv2d_4"][0, x, y])
        kept = suppressed(found, score[x, y], 0.5)
        boxes.append(found[kept])
        scores.append(score[x, y][kept])
        scale *= PYRAMID_STEP
    together, strength = np.concatenate(boxes), np.concatenate(scores)
    return squares(together[suppressed(together, strength, 0.7)])


def detected(image: Image.Image, pnet: Run, rnet: Run, onet: Run) -> tuple[list[int], Array]:
    """Boxes after each of the three stages, counted, and the faces [n, 4] in the end."""
    boxes = candidates(pnet, image)
    counts = [len(boxes)]
    stages = (
        (rnet, "input_2", 24, "softmax_1", "dense_2", False),
        (onet, "input_3", 48, "softmax_2", "dense_5", True),
    )
    for run, name, side, score, shift, of_smaller in stages:
        if len(boxes):
            answer = run({name: crops(image, squares(boxes), side)})
            strength = answer[score][:, 1]
            sure = np.flatnonzero(strength >= 0.7)
            boxes = refined(squares(boxes)[sure], answer[shift][sure])
            boxes = boxes[suppressed(boxes, strength[sure], 0.7, of_smaller=of_smaller)]
        counts.append(len(boxes))
    return counts, boxes


def _cascade(open_: Open) -> tuple[Run, Run, Run]:
    return open_("mtcnn/pnet.onnx"), open_("mtcnn/rnet.onnx"), open_("mtcnn/onet.onnx")


def mtcnn(models: Path, open_: Open) -> Outcome:
    """The cascade on five photos: every level of the pyramid and every number of candidates."""
    runs = _cascade(open_)
    texts, faces = [], []
    for path in files(models / "mtcnn/inputs", ".png", ".jpeg"):
        with Image.open(path) as image:
            counts, _ = detected(image.convert("RGB"), *runs)
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
    runs = _cascade(open_)
    embed = open_("mobilefacenet/MobileFaceNet.onnx")
    straight: list[Array] = []
    mirrored: list[Array] = []
    for path in files(models / "mtcnn/inputs", ".png", ".jpeg"):
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        for box in squares(detected(image, *runs)[1]):
            face = resized(cropped(image, box), (112, 112))
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

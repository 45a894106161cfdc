"""A cascade of networks at ever new shapes: faces found on photos of any size, and embedded.

K. Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", 2016. A proposal network runs over an image pyramid, whose levels have sizes of their
own; two refining networks run on as many crops as are left; an embedding network on every face.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.mtcnn.boxes import Boxes, refined, squares, suppressed

Array = NDArray[Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]
"""Runs a network: arrays by input name to arrays by output name."""

WINDOW, STRIDE = 12, 2
"""Pixels that a cell of the proposal network sees, and by which neighbours are apart."""

PYRAMID_STEP = 0.709
PROPOSED, SURE = 0.6, 0.7
"""Scores from which a cell is proposed, and a crop kept."""

EMBEDDED = 112
"""Side of the faces that are embedded."""

_CENTRED = ((np.arange(256) - np.float32(127.5)) / np.float32(128)).astype(np.float32)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


@dataclass(frozen=True)
class Networks:
    """The networks of the cascade; `embed` takes one face at a time."""

    propose: Run
    refine: Run
    output: Run
    embed: Run | None = None


@dataclass(frozen=True)
class Stage:
    """A refining network: its input, the side of its crops, its outputs and how boxes merge."""

    source: str
    side: int
    score: str
    shift: str
    of_smaller: bool


REFINE = Stage("input_2", 24, "softmax_1", "dense_2", of_smaller=False)
OUTPUT = Stage("input_3", 48, "softmax_2", "dense_5", of_smaller=True)


@dataclass(frozen=True)
class Faces:
    """Boxes left after each of the three stages, counted; the faces; their embeddings [n, 128]."""

    counts: tuple[int, int, int]
    boxes: Boxes
    embeddings: Array | None = None


class Cascade:
    """Finds the faces of at least `smallest_face` pixels on RGB photos."""

    def __init__(self, networks: Networks, smallest_face: int = 20) -> None:
        self._networks = networks
        self._smallest = smallest_face

    def __call__(self, image: Image.Image) -> Faces:
        """Faces on a photo, the surest first."""
        networks = self._networks
        boxes = self.candidates(image)
        counts = [len(boxes)]
        for run, stage in ((networks.refine, REFINE), (networks.output, OUTPUT)):
            boxes = self._survivors(run, stage, image, boxes)
            counts.append(len(boxes))
        found = (counts[0], counts[1], counts[2])
        return Faces(found, boxes, self._embeddings(image, boxes))

    def candidates(self, image: Image.Image) -> Boxes:
        """Squares around what looks like a face on any level of the pyramid."""
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0, np.float32)]
        scale, level = WINDOW / self._smallest, image
        while min(image.size) * scale >= WINDOW:
            size = round(image.width * scale), round(image.height * scale)
            # Each level is made from the one above, so that all together cost twice the first.
            level = level.resize(size, Image.Resampling.BILINEAR)
            pixels = np.asarray(level).transpose(1, 0, 2)
            answer = self._networks.propose({"input_1": _centred(pixels[None])})
            score = answer["softmax"][0, :, :, 1]
            x, y = np.nonzero(score >= PROPOSED)
            corner = np.stack([x, y], 1) * float(STRIDE)
            found = np.concatenate([corner, corner + WINDOW], 1) / scale
            found = refined(found, answer["conv2d_4"][0, x, y])
            kept = suppressed(found, score[x, y], 0.5)
            boxes.append(found[kept])
            scores.append(score[x, y][kept])
            scale *= PYRAMID_STEP
        together = np.concatenate(boxes)
        return squares(together[suppressed(together, np.concatenate(scores), 0.7)])

    @staticmethod
    def _survivors(run: Run, stage: Stage, image: Image.Image, boxes: Boxes) -> Boxes:
        if not len(boxes):
            return boxes
        boxes = squares(boxes)
        answer = run({stage.source: _crops(image, boxes, stage.side)})
        strength = answer[stage.score][:, 1]
        sure = np.flatnonzero(strength >= SURE)
        found = refined(boxes[sure], answer[stage.shift][sure])
        return found[suppressed(found, strength[sure], 0.7, of_smaller=stage.of_smaller)]

    def _embeddings(self, image: Image.Image, boxes: Boxes) -> Array | None:
        """Vectors of length 1, one per face."""
        embed = self._networks.embed
        if embed is None:
            return None
        vectors = np.zeros((len(boxes), 128), np.float32)
        for index, box in enumerate(squares(boxes)):
            pixels = (np.asarray(cropped(image, box, EMBEDDED)) - _MEAN) / _STD
            face = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
            vector = embed({"input0": face})["output0"][0]
            vectors[index] = vector / np.linalg.norm(vector)
        return vectors


def cropped(image: Image.Image, box: Array, side: int) -> Image.Image:
    """What a box [4] holds, in `side` by `side` pixels, zero outside the image."""
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    if left >= 0 and top >= 0 and right <= image.width and bottom <= image.height:
        part = image.resize((side, side), Image.Resampling.BILINEAR, (left, top, right, bottom))
    else:
        part = image.crop((left, top, right, bottom))
        part = part.resize((side, side), Image.Resampling.BILINEAR)
    return part


def _crops(image: Image.Image, boxes: Boxes, side: int) -> Array:
    """Boxes cut out as [n, side, side, 3] of -1..1, x before y as these networks have them."""
    pixels = np.empty((len(boxes), side, side, 3), np.uint8)
    for index, box in enumerate(boxes):
        pixels[index] = cropped(image, box, side)
    return _centred(pixels.transpose(0, 2, 1, 3))


def _centred(pixels: NDArray[np.uint8]) -> Array:
    """`(pixels - 127.5) / 128`, C-contiguous."""
    return _CENTRED[np.ascontiguousarray(pixels)]

"""Finds faces on photos: ``python -m examples.mtcnn FOLDER_OF_MODELS PHOTO...``.

The folder holds mtcnn/{pnet,rnet,onet}.onnx and mobilefacenet/MobileFaceNet.onnx.
"""

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

import engine
from examples.mtcnn.cascade import Cascade, Networks, Run

NETWORKS = ("mtcnn/pnet", "mtcnn/rnet", "mtcnn/onet", "mobilefacenet/MobileFaceNet")


def opened(models: Path, threads: int | None) -> Networks:
    """The four networks, loaded."""

    def run(name: str) -> Run:
        return engine.load(models / f"{name}.onnx", threads).run

    return Networks(*map(run, NETWORKS))


def main(
    models: Annotated[Path, typer.Argument(help="Folder of the networks.")],
    photos: Annotated[list[Path], typer.Argument(help="Photos, of any size.")],
    smallest_face: Annotated[int, typer.Option(min=12, help="In pixels.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Print the faces on each photo, and how alike they are to those of the first."""
    cascade = Cascade(opened(models, threads), smallest_face)
    first = None
    for path in photos:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        begin = time.perf_counter()
        faces = cascade(image)
        milliseconds = (time.perf_counter() - begin) * 1e3
        stages = " -> ".join(map(str, faces.counts))
        print(f"{path.name} ({image.width}x{image.height}): {stages} in {milliseconds:.0f} ms")
        vectors = faces.embeddings
        assert vectors is not None
        for box, vector in zip(np.rint(faces.boxes).astype(int).tolist(), vectors, strict=True):
            first = vector if first is None else first
            print(f"  {box}  likeness to the first face {float(vector @ first):.2f}")


if __name__ == "__main__":
    sys.exit(typer.run(main))

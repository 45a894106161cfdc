"""Whole pictures: digits, objects, super-resolution."""

from pathlib import Path

import numpy as np
from PIL import Image

from examples.real_input.case import Case, Open, Outcome, stored_tensor
from examples.real_input.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    channels_first,
    files,
    normalised,
)

CIFAR_LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR_PHOTOS = {
    "airliner.jpeg": "airplane",
    "golden_retriever.jpeg": "dog",
    "pelican.jpeg": "bird",
    "peacock.jpeg": "bird",
    "kitten.jpg": "cat",
    "car.jpg": "automobile",
    "Chicken.jpg": "bird",
}


def mnist(models: Path, open_: Open) -> Outcome:
    """Three stored digits against their stored outputs, four photographed ones by their name."""
    folder = models / "mnist_8"
    run = open_("mnist_8/model.onnx")
    worst = 0.0
    for stored in sorted(folder.glob("test_data_set_*")):
        expected = stored_tensor(stored / "output_0.pb")
        found = run({"Input3": stored_tensor(stored / "input_0.pb")})["Plus214_Output_0"]
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    photos = files(folder / "inputs", ".jpg")
    right = 0
    for path in photos:
        pixels = np.asarray(Image.open(path).convert("L").resize((28, 28)), np.float32)
        right += int(run({"Input3": pixels[None, None]})["Plus214_Output_0"].argmax()) == int(
            path.stem
        )
    return Outcome(
        f"stored outputs within {worst:.1e} of their largest; {right}/{len(photos)} photos",
        "1e-4; 4/4",
        worst <= 1e-4 and right == 4,
    )


def super_resolution(models: Path, open_: Open) -> Outcome:
    """A stored image against its stored output, and a photo, tripled, against its original."""
    folder = models / "super_resolution_10"
    run = open_("super_resolution_10/model.onnx")
    expected = stored_tensor(folder / "test_data_set_0/output_0.pb")
    found = run({"input": stored_tensor(folder / "test_data_set_0/input_0.pb")})["output"]
    worst = float(np.abs(found - expected).max() / np.abs(expected).max())
    with Image.open(folder / "inputs/test_superresolution.png") as image:
        large = image.convert("L").resize((672, 672), Image.Resampling.BICUBIC)
    small = large.resize((224, 224), Image.Resampling.BICUBIC)
    tripled = run({"input": np.asarray(small, np.float32)[None, None] / np.float32(255)})["output"]
    truth = np.asarray(large, np.float32) / 255
    noise = float(np.mean((np.clip(tripled[0, 0], 0, 1) - truth) ** 2))
    decibels = -10 * np.log10(noise)
    return Outcome(
        f"stored output within {worst:.1e} of its largest; photo tripled at {decibels:.1f} dB",
        "1e-4; 25 dB",
        worst <= 1e-4 and decibels >= 25,
    )


def resnet20(models: Path, open_: Open) -> Outcome:
    """Seven photos cropped to a square and box-filtered to 32x32, alone and as one batch."""
    run = open_("resnet_cifar10/resnet20_bn.onnx")
    rows = []
    for name in CIFAR_PHOTOS:
        with Image.open(models / "imagenet_samples" / name) as image:
            photo = image.convert("RGB")
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        square = photo.crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((32, 32), Image.Resampling.BOX))
        rows.append(channels_first(normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)))
    alone = [int(run({"input": row})["logits"].argmax()) for row in rows]
    batch = run({"input": np.concatenate(rows)})["logits"].argmax(1)
    right = sum(
        CIFAR_LABELS[guess] == label and guess == other
        for guess, other, label in zip(alone, batch, CIFAR_PHOTOS.values(), strict=True)
    )
    return Outcome(f"{right}/7 photos", "7/7", right == 7)


CASES = (
    Case("mnist_8", mnist),
    Case("super_resolution_10", super_resolution),
    Case("resnet20", resnet20),
)

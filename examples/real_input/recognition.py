"""Recognition of text in images, decoded by connectionist temporal classification, greedily and
by beam search."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from examples.real_input.case import Case, Open, Outcome
from examples.real_input.ctc import beam, greedy, softmax
from examples.real_input.images import channels_first, files, normalised, rgb

CAPTCHA_BATCH = 32


def lprnet(models: Path, open_: Open) -> Outcome:
    """Two hundred licence plates, one by one; the file name is the answer."""
    folder = models / "lprnet"
    # The last of the 68 characters stands for blank.
    characters = "".join(folder.joinpath("chars.txt").read_text().split())[:67]
    run = open_("lprnet/lprnet_from_pth.onnx")
    plates = files(folder / "inputs", ".jpg")
    right, by_beam = 0, 0
    for path in plates:
        image = channels_first(normalised(rgb(path, (94, 24))[..., ::-1], 127.5, 128))
        scores = run({"input": image})["logits"][0].T
        right += greedy(scores, characters) == path.stem
        by_beam += beam(softmax(scores), characters) == path.stem
    figure = f"{right}/{len(plates)} plates, {by_beam} by beam search"
    return Outcome(figure, "171/200", right >= 171 and by_beam >= 171)


def sat_captcha(models: Path, open_: Open) -> Outcome:
    """297 captchas in batches; the file name is the answer."""
    folder = models / "sat_captcha"
    characters = yaml.safe_load(folder.joinpath("configs.yaml").read_text())["vocab"]
    run = open_("sat_captcha/model.onnx")
    captchas = files(folder / "inputs", ".png")
    right, by_beam = 0, 0
    for paths in _batches(captchas, CAPTCHA_BATCH):
        scores = run({"input": np.stack([rgb(path) for path in paths]).astype(np.float32)})
        for rows, path in zip(scores["output"], paths, strict=True):
            right += greedy(rows, characters) == path.stem
            by_beam += beam(rows, characters) == path.stem
    figure = f"{right}/{len(captchas)} captchas, {by_beam} by beam search"
    return Outcome(figure, "296/297", right >= 296 and by_beam >= 296)


def _batches(paths: list[Path], size: int) -> Iterable[list[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


CASES = (Case("lprnet", lprnet), Case("sat_captcha", sat_captcha))

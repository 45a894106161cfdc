"""Every benchmark network with the shapes it is measured at."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx

from benchmarks.models import detection, recurrent, sequence, transformer, vision
from benchmarks.models.graph import Array
from benchmarks.models.layers import image_sample

Dims = Mapping[str, int]
Inputs = dict[str, Array]


@dataclass(frozen=True)
class BenchmarkModel:
    """One network: how to build it, how to feed it, and where to measure it.

    `cases` and `tiny` bind the symbolic dims; `ranges` bounds them (inclusive) for random shapes.
    """

    name: str
    title: str
    build: Callable[[], onnx.ModelProto]
    inputs: Callable[[Dims, np.random.Generator], Inputs]
    cases: tuple[Dims, ...]
    tiny: Dims
    ranges: Mapping[str, tuple[int, int]]


def case_name(dims: Dims) -> str:
    """Short label of a case: "b8", "b1 l128", "b1 224x224"."""
    parts = [f"b{dims['batch']}"]
    if "length" in dims:
        parts.append(f"l{dims['length']}")
    if "width" in dims:
        height = f"{dims['height']}x" if "height" in dims else "w"
        parts.append(f"{height}{dims['width']}")
    return " ".join(parts)


def _image(dims: Dims, rng: np.random.Generator) -> Inputs:
    size = (dims.get("height", 224), dims.get("width", 224))
    return {"image": image_sample(rng, (dims["batch"], 3, *size))}


def _line(dims: Dims, rng: np.random.Generator) -> Inputs:
    return {"image": image_sample(rng, (dims["batch"], 1, 32, dims["width"]))}


def _features(dims: Dims, rng: np.random.Generator) -> Inputs:
    shape = (dims["batch"], sequence.MLP_WIDTHS[0])
    return {"features": rng.standard_normal(shape, dtype=np.float32)}


def _tokens(dims: Dims, rng: np.random.Generator) -> Inputs:
    shape = (dims["batch"], dims["length"])
    return {"tokens": rng.integers(0, sequence.VOCABULARY, shape)}


def _sentences(dims: Dims, rng: np.random.Generator) -> Inputs:
    """Token ids with a mask that cuts every sentence but the first at a random length."""
    batch, length = dims["batch"], dims["length"]
    ends = rng.integers(max(1, length // 2), length + 1, batch)
    ends[0] = length
    return {
        "ids": rng.integers(0, transformer.VOCABULARY, (batch, length)),
        "mask": (np.arange(length) < ends[:, None]).astype(np.int64),
        "types": np.zeros((batch, length), np.int64),
    }


def _grid(**axes: tuple[int, ...]) -> tuple[Dims, ...]:
    cases: list[dict[str, int]] = [{}]
    for name, sizes in axes.items():
        cases = [{**case, name: size} for case in cases for size in sizes]
    return tuple(cases)


_SQUARE = _grid(batch=(1, 8), height=(224,), width=(224,))
_TEXT = _grid(batch=(1, 8), length=(16, 128))
_TINY_IMAGE = {"batch": 2, "height": 64, "width": 96}
_TINY_TEXT = {"batch": 2, "length": 7}
_IMAGE_RANGES = {"batch": (1, 4), "height": (96, 320), "width": (96, 320)}
_TEXT_RANGES = {"batch": (1, 8), "length": (4, 192)}
_PNET_CASES = (
    {"batch": 1, "height": 270, "width": 480},
    {"batch": 8, "height": 270, "width": 480},
    {"batch": 1, "height": 1080, "width": 1920},
)

MODELS: Mapping[str, BenchmarkModel] = {
    model.name: model
    for model in (
        BenchmarkModel(
            "resnet50", "ResNet-50", vision.resnet50, _image, _SQUARE, _TINY_IMAGE, _IMAGE_RANGES
        ),
        BenchmarkModel(
            "mobilenet_v2",
            "MobileNetV2",
            vision.mobilenet_v2,
            _image,
            _SQUARE,
            _TINY_IMAGE,
            _IMAGE_RANGES,
        ),
        BenchmarkModel(
            "vgg16",
            "VGG-16",
            vision.vgg16,
            _image,
            _grid(batch=(1, 8)),
            {"batch": 1},
            {"batch": (1, 4)},
        ),
        BenchmarkModel(
            "pnet",
            "P-Net",
            detection.pnet,
            _image,
            _PNET_CASES,
            {"batch": 2, "height": 33, "width": 50},
            {"batch": (1, 2), "height": (64, 1080), "width": (64, 1920)},
        ),
        BenchmarkModel(
            "crnn",
            "CRNN",
            detection.crnn,
            _line,
            _grid(batch=(1, 8), width=(100, 320)),
            {"batch": 2, "width": 40},
            {"batch": (1, 4), "width": (32, 480)},
        ),
        BenchmarkModel(
            "lstm",
            "BiLSTM x2",
            sequence.lstm_classifier,
            _tokens,
            _TEXT,
            _TINY_TEXT,
            _TEXT_RANGES,
        ),
        BenchmarkModel(
            "gru", "BiGRU x2", sequence.gru_classifier, _tokens, _TEXT, _TINY_TEXT, _TEXT_RANGES
        ),
        BenchmarkModel(
            "bert_base",
            "BERT-base",
            transformer.bert_base,
            _sentences,
            _TEXT,
            _TINY_TEXT,
            _TEXT_RANGES,
        ),
        BenchmarkModel(
            "encoder",
            "Encoder 6x384",
            transformer.encoder,
            _sentences,
            _TEXT,
            _TINY_TEXT,
            _TEXT_RANGES,
        ),
        BenchmarkModel(
            "mlp",
            "MLP x4",
            sequence.mlp,
            _features,
            _grid(batch=(1, 8)),
            {"batch": 3},
            {"batch": (1, 64)},
        ),
    )
}


HIDDEN_SIZES = (128, 256, 512, 1024)
LAYER_BATCHES, LAYER_STEPS = (1, 8, 32), (10, 50, 200)


def _layer(cell: recurrent.Cell, hidden: int) -> BenchmarkModel:
    def rows(dims: Dims, rng: np.random.Generator) -> Inputs:
        shape = (dims["length"], dims["batch"], hidden)
        return {"x": rng.standard_normal(shape, dtype=np.float32)}

    return BenchmarkModel(
        f"{cell.lower()}_{hidden}",
        f"{cell} {hidden}",
        partial(recurrent.layer, cell, hidden),
        rows,
        _grid(batch=LAYER_BATCHES, length=LAYER_STEPS),
        {"batch": 2, "length": 3},
        {"batch": (1, 8), "length": (1, 50)},
    )


LAYERS: dict[str, BenchmarkModel] = {
    model.name: model
    for cell in recurrent.GATES
    for hidden in HIDDEN_SIZES
    for model in [_layer(cell, hidden)]
}
"""Single recurrent layers, measured by `benchmarks.recurrent`; names are LSTM or GRU and hidden
size."""


def find(name: str) -> BenchmarkModel:
    """A network or a layer by its name."""
    return MODELS[name] if name in MODELS else LAYERS[name]


def select(names: str | None) -> tuple[BenchmarkModel, ...]:
    """Models of a comma-separated list, in registry order; all of them for None."""
    if names is None:
        return tuple(MODELS.values())
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(MODELS))
    if unknown:
        raise ValueError(f"unknown model {', '.join(unknown)}; known: {', '.join(MODELS)}")
    return tuple(model for model in MODELS.values() if model.name in wanted)


def case_inputs(model: BenchmarkModel, dims: Dims) -> Inputs:
    """The inputs of a case, the same in every process and run."""
    key = hashlib.blake2b(f"{model.name} {sorted(dims.items())}".encode(), digest_size=8)
    return model.inputs(dims, np.random.default_rng(int.from_bytes(key.digest(), "little")))


def model_path(model: BenchmarkModel, folder: Path) -> Path:
    """Path of the model's file in `folder`, built first where it is missing.

    The name carries a digest of the builders' source, so an edit never meets an old file.
    """
    path = folder / f"{model.name}-{_source_digest()}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        onnx.save(model.build(), partial)
        partial.replace(path)
    return path


@cache
def _source_digest() -> str:
    digest = hashlib.blake2b(onnx.__version__.encode(), digest_size=5)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.name not in ("registry.py", "__init__.py"):
            digest.update(source.read_bytes())
    return digest.hexdigest()

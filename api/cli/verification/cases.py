"""Inputs to verify a model with: random ones of several shapes, or files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

import engine
from api.cli.errors import CommandError
from api.cli.images import Fit, is_image
from api.cli.inputs import random_inputs, read_inputs

Array = NDArray[Any]
Shapes = dict[str, tuple[int, ...]]

_BATCHES: Final = (1, 3, 2)
_SIZES: Final = ((16, 24, 9), (64, 96, 32), (224, 256, 160))
"""Sizes of the other open axes, small ones first: some models refuse small images, or sizes that
are no multiple of a power of two."""

_SUFFIXES: Final = (".npz", ".json", ".npy")

LABELS: Final = "labels.json"
"""File in a folder of inputs that says what is right for each, and is no case."""


@dataclass(frozen=True)
class Case:
    """Arrays by input name, and what to call them in reports."""

    name: str
    inputs: dict[str, Any]


def candidates(session: engine.Session, count: int) -> Iterator[list[Case]]:
    """For each of `count` random cases, inputs to try until the model takes one.

    Open axes get sizes that differ from case to case; axes of the same name agree. Raises
    UsageError where an input cannot be invented.
    """
    for index in range(count):
        batch = _BATCHES[index % len(_BATCHES)]
        own = [sizes[index % len(sizes)] for sizes in _SIZES]
        others = [size for sizes in _SIZES for size in sizes if size not in own]
        yield [
            _random_case(session, _shapes(session, batch, size), index)
            for size in (*own, batch, *others)
        ]


def random_case(session: engine.Session, shapes: Shapes, index: int) -> Case:
    """A random case of given shapes; inputs without one take the size 1 along a first open axis."""
    return _random_case(session, shapes, index)


def _random_case(session: engine.Session, shapes: Shapes, index: int) -> Case:
    return Case(f"random {index + 1}", random_inputs(session, shapes, seed=index))


def _shapes(session: engine.Session, batch: int, size: int) -> Shapes:
    """Shapes with the first axis of the first input at `batch` and other open axes at `size`."""
    sizes: dict[str, int] = {}
    for spec in session.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                sizes.setdefault(dim, batch if axis == 0 else size)
    return {
        spec.name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        for spec in session.inputs
    }


def read_cases(session: engine.Session, paths: Sequence[str]) -> list[Case]:
    """The cases in files and folders.

    A file is one case: `.npz` or `.json` by input name, `.npy` or an image for a model of one
    input. In a folder, every such file is one, and so is every folder of the onnx package's form
    (``test_data_set_0/input_0.pb``). Raises CommandError for what cannot be read.
    """
    found = [case for path in paths for case in _read(session, Path(path))]
    if not found:
        raise CommandError(f"{', '.join(paths)}: no .npz, .npy, .json or image files there")
    return found


def _read(session: engine.Session, path: Path) -> list[Case]:
    if not path.is_dir():
        return [Case(path.name, read_inputs(session, [str(path)], Fit()))]
    if any(path.glob("input_*.pb")):
        return [Case(path.name, _protobufs(session, path))]
    chosen = [p for p in sorted(path.iterdir()) if p.is_dir() or _is_case(p)]
    return [case for inner in chosen for case in _read(session, inner)]


def _is_case(path: Path) -> bool:
    return path.name != LABELS and (path.suffix.lower() in _SUFFIXES or is_image(path))


def _protobufs(session: engine.Session, folder: Path) -> dict[str, Any]:
    """Tensors in the order of the model's inputs."""
    files = sorted(folder.glob("input_*.pb"), key=lambda p: int(p.stem.removeprefix("input_")))
    if len(files) > len(session.inputs):
        raise CommandError(f"{folder}: {len(files)} inputs, the model has {len(session.inputs)}")
    arrays: dict[str, Any] = {}
    for spec, file in zip(session.inputs, files, strict=False):
        try:
            tensor = onnx.TensorProto.FromString(file.read_bytes())
            arrays[spec.name] = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf's and numpy's errors have no base in common
            raise CommandError(f"{file}: not a tensor of the onnx package: {error}") from None
    return arrays


def shapes_text(inputs: Mapping[str, Any]) -> str:
    """Names and shapes for people: ``x [1, 3, 8, 8]``."""
    return ", ".join(f"{name} {list(np.shape(array))}" for name, array in inputs.items())

"""Model inputs given on the command line: .npy, .npz, JSON and image files, or random values."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine
from api.cli.errors import CommandError, UsageError
from api.cli.images import Fit, is_image, read_image
from api.cli.terminal import shape_text

Array = NDArray[Any]


def read_inputs(session: engine.Session, arguments: Sequence[str], fit: Fit) -> dict[str, Array]:
    """Arrays for the model from arguments of the form `file` or `name=file`.

    A name may be left out where the model has one input, and for .npz and .json files that name
    their arrays themselves. Files for the same input are joined along axis 0. Raises CommandError
    for files that cannot be read and UsageError for arguments that fit no input.
    """
    specs = {spec.name: spec for spec in session.inputs}
    parts: dict[str, list[Array]] = {}
    for argument in arguments:
        name, path = _split(argument, specs)
        for key, array in _read(path, name, specs, fit).items():
            parts.setdefault(key, []).append(array)
    return {name: _joined(name, arrays) for name, arrays in parts.items()}


def random_inputs(
    session: engine.Session,
    shapes: dict[str, tuple[int, ...]],
    *,
    skip: frozenset[str] = frozenset(),
    seed: int = 0,
) -> dict[str, Array]:
    """Random arrays for all inputs but those in `skip`: normal floats, integers 0 and 1, booleans.

    `shapes` gives shapes by input name; an input without one must leave nothing open but its first
    dimension, which becomes 1. Raises UsageError otherwise.
    """
    random = np.random.default_rng(seed)
    specs = [spec for spec in session.inputs if spec.name not in skip]
    for name in shapes:
        if name not in {spec.name for spec in session.inputs}:
            raise UsageError(_no_such_input(name, session.inputs))
    return {
        spec.name: _random(
            spec, shapes[spec.name] if spec.name in shapes else _default_shape(spec), random
        )
        for spec in specs
    }


def parse_shapes(arguments: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes from arguments of the form `name=1x3x224x224`. Raises UsageError."""
    shapes = {}
    for argument in arguments:
        name, separator, text = argument.rpartition("=")
        if not separator or not re.fullmatch(r"\d+([x,]\d+)*|scalar", text):
            raise UsageError(f"--shape {argument!r}: write it as name=1x3x224x224")
        dims = re.findall(r"\d+", text)
        shapes[name] = tuple(map(int, dims))
    return shapes


def _split(argument: str, specs: dict[str, engine.TensorSpec]) -> tuple[str | None, Path]:
    """Name, where given, and path of one argument; a path may itself contain `=`."""
    name, separator, rest = argument.partition("=")
    if separator and name in specs:
        return name, Path(rest)
    if separator and not Path(argument).exists():
        raise UsageError(_no_such_input(name, list(specs.values())))
    return None, Path(argument)


def _read(
    path: Path, name: str | None, specs: dict[str, engine.TensorSpec], fit: Fit
) -> dict[str, Array]:
    """The arrays in one file by input name."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {_known(key, specs): archive[key] for key in archive.files}
        if suffix == ".json":
            return _from_json(path, name, specs)
        only = _only(name, specs, path)
        if suffix == ".npy":
            return {only: np.load(path, allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
        raise CommandError(f"{path}: {error}") from None
    if is_image(path):
        return {only: read_image(path, specs[only], fit)}
    raise UsageError(f"{path}: unknown kind of file; give .npy, .npz, .json or an image")


def _from_json(
    path: Path, name: str | None, specs: dict[str, engine.TensorSpec]
) -> dict[str, Array]:
    """Arrays of a JSON file: nested lists for one input, an object of such lists by input name, or
    a request body of the Open Inference Protocol."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise CommandError(f"{path}: nested too deeply") from None
    if not isinstance(data, dict):
        only = _only(name, specs, path)
        return {only: _array(data, specs[only], path)}
    tensors = data.get("inputs")
    if isinstance(tensors, list) and "inputs" not in specs:
        if not all(isinstance(tensor, dict) and "data" in tensor for tensor in tensors):
            raise CommandError(f"{path}: each of `inputs` needs `name`, `shape` and `data`")
        arrays = {}
        for tensor in tensors:
            key = _known(str(tensor.get("name")), specs)
            flat = _array(tensor["data"], specs[key], path)
            try:
                arrays[key] = flat.reshape(tensor.get("shape", flat.shape))
            except (ValueError, TypeError):
                raise CommandError(
                    f"{path}: input {key!r}: {flat.size} values do not fill the shape "
                    f"{tensor.get('shape')}"
                ) from None
        return arrays
    return {_known(key, specs): _array(value, specs[key], path) for key, value in data.items()}


def _array(data: object, spec: engine.TensorSpec, path: Path) -> Array:
    try:
        return np.array(data, dtype=spec.dtype)
    except (ValueError, TypeError, OverflowError):
        raise CommandError(
            f"{path}: input {spec.name!r} needs {spec.dtype}{shape_text(spec.shape)}; "
            "the values are of another type or their nested lists differ in length"
        ) from None


def _only(name: str | None, specs: dict[str, engine.TensorSpec], path: Path) -> str:
    if name is not None:
        return name
    if len(specs) == 1:
        return next(iter(specs))
    raise UsageError(f"{path}: say which input it is for: --input NAME={path}; {_listed(specs)}")


def _known(name: str, specs: dict[str, engine.TensorSpec]) -> str:
    if name not in specs:
        raise UsageError(_no_such_input(name, list(specs.values())))
    return name


def _joined(name: str, arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    try:
        return np.concatenate(arrays)
    except ValueError:
        shapes = ", ".join(shape_text(array.shape) for array in arrays)
        raise UsageError(
            f"input {name!r}: files of the shapes {shapes} cannot be joined along axis 0"
        ) from None


def _default_shape(spec: engine.TensorSpec) -> tuple[int, ...]:
    shape = (1, *spec.shape[1:]) if spec.shape and isinstance(spec.shape[0], str) else spec.shape
    if any(isinstance(dim, str) for dim in shape):
        example = "x".join("64" if isinstance(dim, str) else str(dim) for dim in shape)
        raise UsageError(
            f"input {spec.name!r} leaves dimensions open, {shape_text(spec.shape)}; "
            f"say which, for example --shape {spec.name}={example}"
        )
    return tuple(dim for dim in shape if isinstance(dim, int))


def _random(spec: engine.TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if spec.dtype.kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(spec.dtype)
    raise UsageError(f"input {spec.name!r} is {spec.dtype}; give it a file with --input")


def _no_such_input(name: str, specs: Sequence[engine.TensorSpec]) -> str:
    return f"the model has no input {name!r}; {_listed({spec.name: spec for spec in specs})}"


def _listed(specs: dict[str, engine.TensorSpec]) -> str:
    shown = [f"{name!r} {spec.dtype}{shape_text(spec.shape)}" for name, spec in specs.items()]
    return f"its inputs are {', '.join(shown)}"

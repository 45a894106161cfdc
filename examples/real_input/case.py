"""What a case is: a task on real input that one or several models solve."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Array]
Run = Callable[[Tensors], Tensors]
"""Runs a model: arrays by input name to arrays by output name."""

Open = Callable[[str], Run]
"""Opens a model by its path inside the folder of models."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task went: what was measured, what was asked for, and whether that was reached."""

    figure: str
    target: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A task; `solve(folder of models, open)` runs it and judges the answers."""

    name: str
    solve: Callable[[Path, Open], Outcome]


def stored_tensor(path: Path) -> Array:
    """The array in a serialised TensorProto."""
    import onnx

    return onnx.numpy_helper.to_array(onnx.load_tensor(str(path)))

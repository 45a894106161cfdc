"""Other implementations to compare with: the onnx package's, and onnxruntime where installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import onnx

from api.cli.errors import CommandError, UsageError


class ReferenceRunError(Exception):
    """A reference cannot load a model, or fails on inputs; says why in one line."""


class Reference(Protocol):
    """A model in another implementation."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name. Raises ReferenceRunError."""
        ...


class OnnxReference:
    """The onnx package's reference evaluator: numpy, operator by operator."""

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        from onnx.reference import ReferenceEvaluator

        self._outputs = list(outputs)
        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception as error:  # each operator raises what it likes
            raise ReferenceRunError(_line(error)) from error

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name. Raises ReferenceRunError."""
        try:
            with np.errstate(all="ignore"):
                found: Any = self._evaluator.run(self._outputs, dict(inputs))
        except Exception as error:
            raise ReferenceRunError(_line(error)) from error
        return dict(zip(self._outputs, found, strict=True))


class OnnxruntimeReference:
    """onnxruntime on the CPU, one thread, without the rewrites of its highest level."""

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._outputs = list(outputs)
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ReferenceRunError(_line(error)) from error

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name. Raises ReferenceRunError."""
        try:
            found = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise ReferenceRunError(_line(error)) from error
        return dict(zip(self._outputs, found, strict=True))


MAKERS: Final[dict[str, Callable[[onnx.ModelProto, Sequence[str]], Reference]]] = {
    "onnxruntime": OnnxruntimeReference,
    "onnx": OnnxReference,
}
"""References by name, the one that decides first."""


def chosen(names: str | None) -> list[str]:
    """The references to use: those asked for, separated by commas, else all that are installed.

    Raises UsageError for an unknown name, CommandError for one that is not installed.
    """
    if names is None:
        return [name for name in MAKERS if importlib.util.find_spec(name)]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted or [names]:
        if name not in MAKERS:
            raise UsageError(f"--reference {name}: known are {', '.join(MAKERS)}")
        if importlib.util.find_spec(name) is None:
            raise CommandError(f"{name} is not installed; install it with: pip install {name}")
    return [name for name in MAKERS if name in wanted]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"

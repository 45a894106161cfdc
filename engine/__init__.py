"""Packhorse's inference engine: one process, one socket; reads an ONNX model, compiles and runs it.

``engine.load("model.onnx").run({"x": array})`` is all it takes; `InferenceSession` is the same
under the names and signatures of onnxruntime. What the package exports is imported at first use: a
process that compiles kernels needs little of it, and starts the sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine import cpu
    from engine.errors import CompileError, EngineError, InputError, ModelError, RunError
    from engine.explanation import Explanation
    from engine.inference_session import (
        InferenceSession,
        SessionOptions,
        get_available_providers,
    )
    from engine.io_binding import OrtValue
    from engine.loading import load
    from engine.precision import Precision
    from engine.runner import progress
    from engine.session import Session
    from engine.specification import Progress, TensorSpec

_HOMES: Final = {
    "CompileError": "engine.errors",
    "EngineError": "engine.errors",
    "Explanation": "engine.explanation",
    "InferenceSession": "engine.inference_session",
    "InputError": "engine.errors",
    "ModelError": "engine.errors",
    "OrtValue": "engine.io_binding",
    "Precision": "engine.precision",
    "Progress": "engine.specification",
    "RunError": "engine.errors",
    "Session": "engine.session",
    "SessionOptions": "engine.inference_session",
    "TensorSpec": "engine.specification",
    "get_available_providers": "engine.inference_session",
    "load": "engine.loading",
    "progress": "engine.runner",
}


if not TYPE_CHECKING:  # mypy would take any attribute for granted

    def __getattr__(name: str) -> Any:
        if name == "cpu":
            return import_module("engine.cpu")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(home), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CompileError",
    "EngineError",
    "Explanation",
    "InferenceSession",
    "InputError",
    "ModelError",
    "OrtValue",
    "Precision",
    "Progress",
    "RunError",
    "Session",
    "SessionOptions",
    "TensorSpec",
    "cpu",
    "get_available_providers",
    "load",
    "progress",
]

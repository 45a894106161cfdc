"""Packhorse's inference engine: one process, one socket; reads an ONNX model, compiles it, runs it.

``engine.load("model.onnx").run({"x": array})`` is all it takes.
"""

from engine import cpu
from engine.errors import CompileError, EngineError, InputError, ModelError, RunError
from engine.explanation import Explanation
from engine.session import Session, load
from engine.specification import Progress, TensorSpec

__all__ = [
    "CompileError",
    "EngineError",
    "Explanation",
    "InputError",
    "ModelError",
    "Progress",
    "RunError",
    "Session",
    "TensorSpec",
    "cpu",
    "load",
]

"""Errors that the engine raises.

Every message names what was wrong, where (model, node, input) and what to do about it.
"""


class EngineError(Exception):
    """Base of every error the engine raises on purpose."""


class ModelError(EngineError):
    """The model file cannot be read, breaks the ONNX specification or exceeds a limit."""


class InputError(EngineError):
    """An input of a run has a wrong name, data type, rank, size or value."""


class RunError(EngineError):
    """A run failed inside the model, for example on an index out of range."""


class CompileError(EngineError):
    """Machine code could not be generated, loaded or kept."""

"""A session under the names and signatures of onnxruntime's Python interface.

Code written for onnxruntime runs on this engine where ``import onnxruntime as ort`` becomes
``import engine as ort``. What steers onnxruntime's own machinery (graph optimisation levels,
arenas, providers other than the CPU's) is accepted and has no effect; errors are this engine's.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import InputError
from engine.io_binding import IOBinding
from engine.loading import load
from engine.model_metadata import ModelMetadata, read_metadata
from engine.session import Session
from engine.specification import TensorSpec

Array = np.ndarray[Any, Any]
Callback = Callable[[list[Any], Any, str], None]

PROVIDER: Final = "CPUExecutionProvider"
"""The name under which onnxruntime knows the CPU."""

_ELEMENTS: Final = {"float32": "float", "float64": "double", "object": "string"}
"""onnxruntime's names of element types, where they are not numpy's."""


@dataclass
class SessionOptions:
    """Options of a session; `intra_op_num_threads` counts threads, 0 for all usable CPUs.

    The other fields exist because programs set them; they have no effect here.
    """

    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    execution_mode: Any = None
    graph_optimization_level: Any = None
    optimized_model_filepath: str = ""
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    enable_profiling: bool = False
    log_severity_level: int = 2
    log_verbosity_level: int = 0
    logid: str = ""
    entries: dict[str, str] = field(default_factory=dict)

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; none has an effect."""
        self.entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """The entry kept under `key`. Raises KeyError."""
        return self.entries[key]


@dataclass(frozen=True)
class NodeArg:
    """Name, element type (such as ``tensor(float)``) and shape of an input or output.

    A fixed size is an int, a named one a str, any other None.
    """

    name: str
    type: str
    shape: list[int | str | None]


class InferenceSession:
    """A loaded model with onnxruntime's methods; thread-safe.

    `path_or_bytes` is a file or the bytes of one. `sess_options` may be ours, onnxruntime's, or
    anything with its attributes. `providers` are names or (name, options) pairs; a warning is given
    where the CPU is not among them. Raises as `engine.load` does.
    """

    def __init__(
        self,
        path_or_bytes: str | Path | bytes,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **_: Any,
    ) -> None:
        _check_providers(providers)
        self._options = sess_options if sess_options is not None else SessionOptions()
        threads = int(getattr(self._options, "intra_op_num_threads", 0) or 0)
        self._session = load(path_or_bytes, threads or None)
        self._metadata = read_metadata(path_or_bytes)
        self._outputs = [spec.name for spec in self._session.outputs]

    @property
    def session(self) -> Session:
        """The session that does the work."""
        return self._session

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Any]:
        """Outputs in the order of `output_names`; None or no names for all of them.

        Raises InputError and RunError as `Session.run` does. `run_options` has no effect.
        """
        names = list(output_names) if output_names else self._outputs
        results = self._session.run(self._feed(input_feed), names)
        return [results[name] for name in names]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callback,
        user_data: Any,
        run_options: Any = None,
    ) -> None:
        """As `run`, in a thread that then calls ``callback(results, user_data, error)``.

        `error` is a text, empty where all went well.
        """

        def work() -> None:
            try:
                results = self.run(output_names, input_feed)
            except Exception as error:  # whatever went wrong is the callback's to know
                callback([], user_data, str(error))
            else:
                callback(results, user_data, "")

        threading.Thread(target=work, daemon=True).start()

    def io_binding(self) -> IOBinding:
        """Arrays bound to inputs and outputs, for `run_with_iobinding`."""
        return IOBinding(self._session.inputs, self._session.outputs)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        """Run on what is bound; results are written to, or kept in, the binding."""
        names = iobinding.output_names or self._outputs
        iobinding.keep(self._session.run(self._feed(iobinding.feed), names))

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that a run must be given."""
        return [_describe(spec) for spec in self._session.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the model's order."""
        return [_describe(spec) for spec in self._session.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: initialisers are packed at load, also those that the file lists as inputs."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        return self._metadata

    def get_providers(self) -> list[str]:
        """The CPU's provider, under onnxruntime's name."""
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options of each provider; there are none."""
        return {PROVIDER: {}}

    def set_providers(
        self,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Accepted where it names the CPU; there is no other provider."""
        _check_providers(providers)

    def get_session_options(self) -> Any:
        """The options that the session was made with."""
        return self._options

    def _feed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given inputs, and None for optional ones that were left out."""
        absent = {s.name: None for s in self._session.inputs if s.kind == "optional"}
        return {**absent, **{name: _plain(value) for name, value in given.items()}}


def get_available_providers() -> list[str]:
    """Names of the providers that a session may have: the CPU's alone."""
    return [PROVIDER]


def _plain(value: Any) -> Any:
    """The array of an OrtValue, ours or onnxruntime's; anything else as it is."""
    return value.numpy() if hasattr(value, "numpy") and hasattr(value, "data_type") else value


def _check_providers(providers: Sequence[Any] | None) -> None:
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"provider {name!r}: give names, or pairs of a name and its options")
    if names and PROVIDER not in names:
        warnings.warn(
            f"providers {names}: there is only {PROVIDER} here, which is used instead",
            UserWarning,
            stacklevel=3,
        )


def _describe(spec: TensorSpec) -> NodeArg:
    element = f"tensor({_ELEMENTS.get(spec.dtype.name, spec.dtype.name)})"
    if spec.kind == "tensor":
        shape = [
            None if size == f"{spec.name}_dim_{a}" else size for a, size in enumerate(spec.shape)
        ]
        return NodeArg(spec.name, element, shape)
    return NodeArg(spec.name, f"{'seq' if spec.kind == 'sequence' else 'optional'}({element})", [])

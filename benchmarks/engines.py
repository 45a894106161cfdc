"""The engines under one interface: numpy arrays in, numpy arrays that the caller owns out."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A loaded model; `run` is the whole call that is timed."""

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs by name, in arrays that later calls do not overwrite."""


@dataclass(frozen=True)
class EngineSetup:
    """Which engine, in which precision, on how many threads.

    `isa` masks CPU features where the engine can be told to; `cache_dir` is for compiled code.
    `cpu` is where its process runs, None for all CPUs.
    """

    name: str
    threads: int
    isa: str | None = None
    cache_dir: str | None = None
    cpu: int | None = None


class Packhorse:
    """Our own engine."""

    def __init__(self, model: Path, setup: EngineSetup, precision: str = "fp32") -> None:
        import engine

        self._session = engine.load(
            model,
            threads=setup.threads,
            isa=setup.isa,
            cache_dir=setup.cache_dir,
            precision=precision,
        )

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        outputs: Arrays = self._session.run(dict(inputs))
        return outputs

    def run_ragged(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        """Requests of different lengths in one run."""
        results: list[Arrays] = list(self._session.run_ragged(feeds))
        return results


class Onnxruntime:
    """onnxruntime's CPU provider, all optimisations, spinning as by default.

    It takes no instruction set mask.
    """

    def __init__(self, model: Path, setup: EngineSetup) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        return dict(zip(self._names, self._session.run(None, inputs), strict=True))


class OpenVINO:
    """OpenVINO's CPU plugin with one latency stream.

    Inputs are shared with the caller; outputs are copied out, since the next call overwrites them.
    """

    def __init__(self, model: Path, setup: EngineSetup, precision: str = "f32") -> None:
        if setup.isa is not None:
            # Read when the plugin's library is loaded, that is before the import.
            os.environ["ONEDNN_MAX_CPU_ISA"] = MASKS[setup.isa]
        import openvino

        core = openvino.Core()
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": setup.threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        if setup.cache_dir is not None:
            properties["CACHE_DIR"] = setup.cache_dir
        compiled = core.compile_model(str(model), "CPU", properties)
        self._request = compiled.create_infer_request()
        self._names = [output.get_any_name() for output in compiled.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return dict(zip(self._names, results.to_tuple(), strict=True))


# The engine's names for masks, with oneDNN's.
MASKS = {"baseline": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
_FACTORIES: Mapping[str, Callable[[Path, EngineSetup], Engine]] = {
    "packhorse": Packhorse,
    "onnxruntime": Onnxruntime,
    "openvino": OpenVINO,
    "packhorse-bf16": lambda model, setup: Packhorse(model, setup, "bf16"),
    "openvino-bf16": lambda model, setup: OpenVINO(model, setup, "bf16"),
}

OURS = "packhorse"
ORACLE = "onnxruntime"
FP32_PEERS = ("onnxruntime", "openvino")
FP32_ENGINES = (OURS, *FP32_PEERS)
OURS_BF16 = "packhorse-bf16"
BF16_ENGINES = (OURS_BF16, "openvino-bf16")
BF16_FEATURES = ("avx512bf16", "amx-bf16")


def load(model: Path, setup: EngineSetup) -> Engine:
    """Load a model file into an engine of this process."""
    return _FACTORIES[setup.name](model, setup)


def versions() -> dict[str, str]:
    """Installed versions of the engines and of what ours is built on."""
    found = {}
    for name in (*FP32_ENGINES, "onnx", "numpy", "llvmlite", "numba"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found

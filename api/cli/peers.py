"""Other engines, run only to be compared with: `packhorse bench --against`."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from api.cli.errors import CommandError, UsageError

Array = NDArray[Any]
Run = Callable[[], dict[str, Array]]


def peer(name: str, model: Path, threads: int, inputs: dict[str, Array]) -> Run:
    """A function that runs `model` once on `inputs` in the engine `name`, on `threads` threads.

    Raises UsageError for an unknown name and CommandError where the engine is not installed or
    refuses the model.
    """
    if name not in _MAKERS:
        raise UsageError(f"--against {name}: known are {', '.join(_MAKERS)}")
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise CommandError(
            f"{name} is not installed; install it with: pip install {name}"
        ) from None
    try:
        return _MAKERS[name](module, model, threads, inputs)
    except Exception as error:
        raise CommandError(f"{name} cannot run {model}: {str(error).splitlines()[0]}") from None


def _onnxruntime(module: Any, model: Path, threads: int, inputs: dict[str, Array]) -> Run:
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = module.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run() -> dict[str, Array]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


def _openvino(module: Any, model: Path, threads: int, inputs: dict[str, Array]) -> Run:
    """OpenVINO in its latency mode, with float32 held to float32 as ours is."""
    core = module.Core()
    network = core.read_model(str(model))
    names = [_name(output) for output in network.outputs]
    request = core.compile_model(
        network,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    ).create_infer_request()

    def run() -> dict[str, Array]:
        results: Sequence[Array] = list(request.infer(inputs).values())
        return dict(zip(names, results, strict=True))

    return run


def _name(port: Any) -> str:
    return str(port.get_any_name())


_MAKERS: dict[str, Callable[[Any, Path, int, dict[str, Array]], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
NAMES = tuple(_MAKERS)
"""Engines that `--against` takes."""

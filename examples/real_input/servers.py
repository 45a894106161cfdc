"""Ways to run a model: the engine, the engine behind HTTP, and onnxruntime as the oracle."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import engine
from api.server import InferenceServer, ServerEvent
from api.settings import read_settings
from examples.real_input.case import Array, Run, Tensors

MODEL_NAME = "model"
START_SECONDS = 300.0


@contextmanager
def engine_run(path: Path, threads: int | None = None) -> Iterator[Run]:
    """The engine in this process."""
    session = engine.load(path, threads)
    try:
        yield session.run
    finally:
        session.close()


@contextmanager
def oracle_run(path: Path) -> Iterator[Run]:
    """onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


@contextmanager
def http_run(path: Path, threads: int | None = None) -> Iterator[Run]:
    """A gateway in this process, asked over HTTP by the stock Triton client."""
    from tritonclient.http import InferenceServerClient

    with served(path, threads) as url:
        client = InferenceServerClient(url.removeprefix("http://"), network_timeout=120)
        try:
            yield lambda inputs: _infer(client, inputs)
        finally:
            client.close()


@contextmanager
def served(path: Path, threads: int | None = None) -> Iterator[str]:
    """Address of a gateway that serves one model, in a thread of this process."""
    settled = threading.Event()
    failures: list[str] = []

    def on_event(event: ServerEvent) -> None:
        if event.kind == "failed":
            failures.append(event.message)
        if event.kind in ("ready", "failed", "stopped"):
            settled.set()

    settings = read_settings(
        {"repository": path, "model_name": MODEL_NAME, "port": 0, "threads": threads}, {}
    )
    server = InferenceServer(settings, on_event)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        if not settled.wait(START_SECONDS) or failures:
            raise RuntimeError(f"{path}: {'; '.join(failures) or 'the gateway did not start'}")
        yield server.url
    finally:
        server.stop()
        thread.join()


def _infer(client: Any, inputs: Tensors) -> Tensors:
    from tritonclient.http import InferInput

    requested = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), _datatype(array))
        tensor.set_data_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        requested.append(tensor)
    answer = client.infer(MODEL_NAME, requested)
    names = [output["name"] for output in answer.get_response()["outputs"]]
    return {name: answer.as_numpy(name) for name in names}


def _datatype(array: Array) -> str:
    from tritonclient.utils import np_to_triton_dtype

    return str(np_to_triton_dtype(array.dtype))

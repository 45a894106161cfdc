"""Whole servers under the load of one client process."""

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from benchmarks.fleet.crossing import IMAGE
from benchmarks.fleet.processes import Figures, Processes, call, call_raw, wait_for_port
from benchmarks.fleet.serve_application import ServeSettings
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.models.registry import Inputs
from benchmarks.ragged import sentences

CALLERS = 64
_MEAN = """<ir_version: 9, opset_import: ["" : 13]>
mean_of_image (float[batch, 3, height, width] image) => (float[batch] mean) {
    mean = ReduceMean<axes = [1, 2, 3], keepdims = 0>(image)
}"""
SECONDS = {"mlp": 4.0, "encoder": 10.0}
"""Of a comparison with Ray Serve: many times what a batch takes."""

SERVE_SETTINGS = (
    ServeSettings(),
    ServeSettings(max_batch=8),
    ServeSettings(wait_s=0.01),
    ServeSettings(replicas=1, threads=2),
)
"""Of which Ray Serve may use the best; the cores and the longest batch are as ours."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepared(name: str, cache: Path) -> tuple[Path, Inputs]:
    """A model's file and one row of input; the encoder's is 128 tokens long.

    `image` is a model that gives the mean of a 1080p image.
    """
    if name == "image":
        path = cache / "image.onnx"
        onnx.save(onnx.parser.parse_model(_MEAN), path)
        return path, {"image": np.random.default_rng(0).random(IMAGE, dtype=np.float32)}
    model = MODELS[name]
    dims = next(
        case for case in model.cases if case["batch"] == 1 and case.get("length", 128) == 128
    )
    return model_path(model, cache / "models"), case_inputs(model, dims)


def one_request_at_a_time(
    folder: Path, cache: Path, name: str, rounds: int
) -> tuple[list[Figures], list[Figures]]:
    """A single caller of a model, at the embedded gateway and at one with a worker, in turns."""
    path, inputs = prepared(name, cache)
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    with Processes(folder, cache / "code") as processes:
        processes.worker("one", "0,1", "--models", str(path))
        processes.wait_for_workers(1)
        urls = (
            processes.gateway(path, free_port()),
            processes.gateway(path, free_port(), "--workers", str(processes.workers)),
        )
        for _ in range(rounds):
            for url, side in zip(urls, sides, strict=True):
                side.append(call(url, path.stem, [inputs], connections=1, seconds=1, warmup=0.3))
    return sides


def one_and_two(folder: Path, cache: Path, rounds: int) -> tuple[list[Figures], list[Figures]]:
    """The encoder at saturation, with one worker of one core and with two, in turns."""
    path, inputs = prepared("encoder", cache)
    load: dict[str, Any] = {"connections": CALLERS, "seconds": 5.0, "warmup": 2.0}
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    for _ in range(rounds):
        for count, side in zip((1, 2), sides, strict=True):
            place = folder / f"{len(side)}-{count}"
            with Processes(place, cache / "code") as processes:
                url = _workers(processes, path, count)
                side.append(call(url, path.stem, [inputs], **load))
    return sides


def mixed() -> list[Inputs]:
    """Sentences of 5 to 120 tokens for the encoder."""
    rows = [tokens[np.newaxis] for tokens in sentences()]
    return [{"ids": ids, "mask": np.ones_like(ids), "types": np.zeros_like(ids)} for ids in rows]


def ours(
    folder: Path, cache: Path, path: Path, requests: Sequence[Inputs], seconds: float
) -> Figures:
    """A gateway and two workers of one core."""
    with Processes(folder, cache / "code") as processes:
        url = _workers(processes, path, 2)
        return call(url, path.stem, requests, connections=CALLERS, seconds=seconds, warmup=3)


def theirs(
    folder: Path,
    cache: Path,
    path: Path,
    requests: Sequence[Inputs],
    seconds: float,
    settings: ServeSettings,
) -> Figures:
    """Ray Serve's proxy and replicas on the same cores."""
    bodies = [b"".join(array.tobytes() for array in inputs.values()) for inputs in requests]
    kinds = ",".join(f"{name}:{array.dtype.name}" for name, array in requests[0].items())
    with Processes(folder, cache / "code") as processes:
        port = free_port()
        processes.start(
            "benchmarks.fleet.serve_application",
            *(str(path), kinds, str(port), json.dumps(asdict(settings))),
        )
        url = f"http://127.0.0.1:{port}"
        wait_for_port(url, bodies[0])
        return call_raw(url, "/", bodies, connections=CALLERS, seconds=seconds, warmup=3)


def each_setting(
    folder: Path,
    cache: Path,
    path: Path,
    requests: Sequence[Inputs],
    seconds: float,
    tried: Sequence[ServeSettings],
) -> dict[ServeSettings, float]:
    """Answers per second of Ray Serve with each of some settings."""
    return {
        settings: theirs(folder / str(number), cache, path, requests, seconds, settings).answers
        for number, settings in enumerate(tried)
    }


def ours_and_serve(
    folder: Path,
    cache: Path,
    path: Path,
    requests: Sequence[Inputs],
    seconds: float,
    rounds: int,
    settings: ServeSettings,
) -> tuple[list[Figures], list[Figures]]:
    """Both in turns, each alone on the machine: Ray's own processes take time unasked, too."""
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    for turn in range(rounds):
        place = folder / str(turn)
        sides[0].append(ours(place / "ours", cache, path, requests, seconds))
        sides[1].append(theirs(place / "serve", cache, path, requests, seconds, settings))
    return sides


def _workers(processes: Processes, path: Path, count: int) -> str:
    for core in range(count):
        processes.worker(f"core/{core}", str(core), "--models", str(path))
    processes.wait_for_workers(count)
    return processes.gateway(path, free_port(), "--workers", str(processes.workers))

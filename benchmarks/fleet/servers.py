"""Whole servers under the load of one client process."""

import socket
from pathlib import Path

from benchmarks.fleet.processes import Figures, Processes, call, call_raw, wait_for_port
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.models.registry import Inputs

CALLERS = 64
SECONDS = {"mlp": 4.0, "encoder": 10.0}
"""Of a comparison with Ray Serve: many times what a batch takes."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepared(name: str, cache: Path) -> tuple[Path, Inputs]:
    """A model's file and one row of input; the encoder's is 128 tokens long."""
    model = MODELS[name]
    dims = next(
        case for case in model.cases if case["batch"] == 1 and case.get("length", 128) == 128
    )
    return model_path(model, cache / "models"), case_inputs(model, dims)


def one_request_at_a_time(
    folder: Path, cache: Path, rounds: int
) -> tuple[list[Figures], list[Figures]]:
    """A single caller of the MLP, at the embedded gateway and at one with a worker, in turns."""
    path, inputs = prepared("mlp", cache)
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
                side.append(call(url, path.stem, inputs, connections=1, seconds=1, warmup=0.3))
    return sides


def one_and_two(folder: Path, cache: Path, rounds: int) -> tuple[list[Figures], list[Figures]]:
    """The encoder at saturation, with one worker of one core and with two, in turns."""
    path, inputs = prepared("encoder", cache)
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    for _ in range(rounds):
        for count, side in zip((1, 2), sides, strict=True):
            place = folder / f"{len(side)}-{count}"
            with Processes(place, cache / "code") as processes:
                url = _workers(processes, path, count)
                side.append(call(url, path.stem, inputs, connections=CALLERS, seconds=5, warmup=2))
    return sides


def ours_and_serve(
    folder: Path, cache: Path, model: str, rounds: int
) -> tuple[list[Figures], list[Figures]]:
    """Two workers of one core against two replicas on one core each.

    In turns, each alone on the machine: Ray's own processes also take time when nothing is asked.
    """
    path, inputs = prepared(model, cache)
    body = b"".join(array.tobytes() for array in inputs.values())
    widths = ",".join(
        f"{name}:{array.dtype.name}:{array.shape[1]}" for name, array in inputs.items()
    )
    load = {"connections": CALLERS, "seconds": SECONDS[model], "warmup": 3}
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    for turn in range(rounds):
        with Processes(folder / f"ours-{turn}", cache / "code") as own:
            ours = _workers(own, path, 2)
            sides[0].append(call(ours, path.stem, inputs, **load))
        with Processes(folder / f"serve-{turn}", cache / "code") as theirs:
            port = free_port()
            theirs.start("benchmarks.fleet.serve_application", str(path), widths, str(port), "2")
            url = f"http://127.0.0.1:{port}"
            wait_for_port(url, body)
            sides[1].append(call_raw(url, "/", body, **load))
    return sides


def _workers(processes: Processes, path: Path, count: int) -> str:
    for core in range(count):
        processes.worker(f"core/{core}", str(core), "--models", str(path))
    processes.wait_for_workers(count)
    return processes.gateway(path, free_port(), "--workers", str(processes.workers))

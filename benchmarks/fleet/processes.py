"""Workers, gateways and clients as processes, for the time of a measurement."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet.client import Task, infer_request
from benchmarks.provenance import ROOT
from cluster.discovery import FolderDiscovery

START_S = 60.0


@dataclass(frozen=True)
class Figures:
    """What one run of the client has found; times in seconds."""

    answers: float
    p50: float
    p99: float
    failures: float


class Processes:
    """Starts processes in a scratch folder and ends them on leaving."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """`cache` is the folder of compiled code."""
        self.folder = folder
        self.workers = folder / "workers"
        self._cache = cache
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(
        self, module: str, *arguments: str, cpus: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `python -m module`; it is ended on leaving."""
        pin = ["taskset", "-c", cpus] if cpus is not None else []
        process = subprocess.Popen(
            [*pin, sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=os.environ | {"PACKHORSE_CACHE_DIR": str(self._cache)},
            stdin=subprocess.PIPE,
        )
        self._stack.callback(_end, process)
        return process

    def worker(self, name: str, cpus: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A worker on some CPUs; `wait_for_workers` says when it is there."""
        places = ["--announce", str(self.workers), "--sockets", str(self.folder / "sockets")]
        return self.start("cluster.worker", *places, "--name", name, *arguments, cpus=cpus)

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers have announced themselves."""
        discovery = FolderDiscovery(self.workers)
        end = time.monotonic() + START_S
        while len(discovery.scan()) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"{count} workers did not start within {START_S:g} s")
            time.sleep(0.005)

    def gateway(self, models: Path, port: int, *options: str, cpus: str | None = None) -> str:
        """A gateway that serves `models`; returns its address once it is ready."""
        self.start("api.cli.main", "serve", str(models), "--port", str(port), *options, cpus=cpus)
        url = f"http://127.0.0.1:{port}"
        wait_for_port(f"{url}/v2/health/ready")
        return url


def wait_for_port(url: str, body: bytes | None = None) -> None:
    """Wait until an address answers, to `body` if there is one; else raises `RuntimeError`."""
    end = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, body, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(f"no answer from {url} within {START_S:g} s") from None
            time.sleep(0.02)


def call(
    url: str,
    model: str,
    requests: Sequence[Mapping[str, NDArray[np.generic]]],
    *,
    connections: int,
    seconds: float,
    warmup: float = 0.5,
) -> Figures:
    """Load a v2 server with some requests in turns from a client process."""
    made = [infer_request(model, inputs) for inputs in requests]
    bodies = [_text(body) for _, body, _ in made]
    lengths = [length for _, _, length in made]
    return drive(Task(url, made[0][0], bodies, lengths, connections, seconds, warmup))


def call_raw(
    url: str,
    path: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warmup: float = 0.5,
) -> Figures:
    """Load any HTTP server with some bodies in turns."""
    texts = [_text(body) for body in bodies]
    return drive(Task(url, path, texts, None, connections, seconds, warmup))


def drive(task: Task) -> Figures:
    """Run the client; raises `RuntimeError` if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fleet.client"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    return Figures(**found)


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()

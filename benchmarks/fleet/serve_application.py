"""The same models on Ray Serve: `@serve.batch` before onnxruntime, one core for each replica.

`python -m benchmarks.fleet.serve_application MODEL INPUTS PORT SETTINGS` serves until its stdin
closes. INPUTS names the inputs with data type, such as `ids:int64,mask:int64`; the body of a
request is a row of each, all of one length, one after the other, and the answer is the first
output's row. Rows of a batch are padded with zeros to the longest. SETTINGS are those of
`ServeSettings` as JSON.
"""

import fcntl
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True)
class ServeSettings:
    """What can be chosen: replicas with `threads` cores each, and the limits of a batch."""

    replicas: int = 2
    threads: int = 1
    max_batch: int = 32
    wait_s: float = 0.001

    def __str__(self) -> str:
        wait = f"{self.wait_s * 1e3:g} ms"
        return f"{self.replicas} x {self.threads} threads, batch {self.max_batch}, wait {wait}"


def _own_cores(settings: ServeSettings) -> set[int]:
    """Cores that no other replica has; held until the process ends."""
    usable = sorted(os.sched_getaffinity(0))
    for first in range(0, settings.replicas * settings.threads, settings.threads):
        core = usable[first]
        lock = os.open(Path(tempfile.gettempdir()) / f"serve-core-{core}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return set(usable[first : first + settings.threads])
    raise RuntimeError("more replicas than cores")


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Model:
    """One replica."""

    def __init__(self, path: str, inputs: str, settings: ServeSettings) -> None:
        cores = _own_cores(settings)
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = []
        for part in inputs.split(","):
            name, kind = part.split(":")
            self._inputs.append((name, np.dtype(kind)))
        self._bytes = sum(dtype.itemsize for _, dtype in self._inputs)
        self.infer.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]
        self.infer.set_batch_wait_timeout_s(settings.wait_s)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def infer(self, bodies: list[bytes]) -> list[bytes]:
        """Run a batch."""
        lengths = [len(body) // self._bytes for body in bodies]
        feed = {}
        place = 0
        for name, dtype in self._inputs:
            feed[name] = np.zeros((len(bodies), max(lengths)), dtype)
            for row, (body, length) in enumerate(zip(bodies, lengths, strict=True)):
                feed[name][row, :length] = np.frombuffer(body, dtype, length, place * length)
            place += dtype.itemsize
        output = self._session.run(None, feed)[0]
        return [row.tobytes() for row in output]

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return Response(await self.infer(await request.body()))


if __name__ == "__main__":
    model, inputs, port, text = sys.argv[1:]
    chosen = ServeSettings(**json.loads(text))
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # on this machine, for some seconds
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    application = Model.options(num_replicas=chosen.replicas).bind(model, inputs, chosen)
    serve.run(application, route_prefix="/")
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()

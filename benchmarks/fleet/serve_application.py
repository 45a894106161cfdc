"""The same models on Ray Serve: `@serve.batch` before onnxruntime, one core for each replica.

`python -m benchmarks.fleet.serve_application MODEL WIDTHS PORT REPLICAS` serves until its stdin
closes. WIDTHS names the inputs with data type and row shape, such as `ids:int64:128`; the body of a
request is their rows, one after the other, and the answer is the first output's row.
"""

import fcntl
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

MAX_BATCH = 32
WAIT_S = 0.001


def _own_core(replicas: int) -> int:
    """A core that no other replica has; held until the process ends."""
    for core in sorted(os.sched_getaffinity(0))[:replicas]:
        lock = os.open(Path(tempfile.gettempdir()) / f"serve-core-{core}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return core
    raise RuntimeError("more replicas than cores")


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Model:
    """One replica."""

    def __init__(self, path: str, widths: str, replicas: int) -> None:
        core = _own_core(replicas)
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = []
        for part in widths.split(","):
            name, kind, width = part.split(":")
            self._inputs.append((name, np.dtype(kind), int(width)))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def infer(self, bodies: list[bytes]) -> list[bytes]:
        """Run a batch."""
        feed = {}
        start = 0
        for name, dtype, width in self._inputs:
            end = start + width * dtype.itemsize
            rows = [np.frombuffer(body[start:end], dtype) for body in bodies]
            feed[name] = np.stack(rows)
            start = end
        output = self._session.run(None, feed)[0]
        return [row.tobytes() for row in output]

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        return Response(await self.infer(await request.body()))


if __name__ == "__main__":
    model, widths, port, replicas = sys.argv[1:]
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # on this machine, for some seconds
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    count = int(replicas)
    serve.run(Model.options(num_replicas=count).bind(model, widths, count), route_prefix="/")
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()

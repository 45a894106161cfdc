"""A closed loop of HTTP clients that costs as little as Python can: prebuilt requests, raw sockets.

`python -m benchmarks.fleet.client` reads one JSON object from stdin and writes one to stdout, so
that the client is a process of its own whoever is being measured.
"""

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray


def infer_request(model: str, inputs: Mapping[str, NDArray[np.generic]]) -> tuple[str, bytes, int]:
    """Path, body and length of the JSON part of an inference request with binary tensors."""
    names = {"float32": "FP32", "int64": "INT64"}
    header = {
        "inputs": [
            {
                "name": name,
                "shape": array.shape,
                "datatype": names[array.dtype.name],
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in inputs.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(header).encode()
    return (
        f"/v2/models/{model}/infer",
        head + b"".join(array.tobytes() for array in inputs.values()),
        len(head),
    )


@dataclass(frozen=True)
class Task:
    """What to send where: `connections` callers, for `seconds` after `warmup` more.

    Every caller sends all `bodies` in turns, each beginning with another one. `header_lengths` are
    those of their JSON parts, None for servers that take other bodies.
    """

    url: str
    path: str
    bodies: list[str]  # base64
    header_lengths: list[int] | None
    connections: int
    seconds: float
    warmup: float


class _Caller(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], times: list[tuple[float, float]]) -> None:
        self.requests = requests
        self.times = times
        self.failures = 0
        self.going = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = bytearray()
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._need:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._data[:end]).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._need = end + 4 + int(length)
            if not head.startswith(b"http/1.1 200"):
                self.failures += 1
        if len(self._data) < self._need:
            return
        self._data.clear()
        self._need = 0
        self.times.append((self._began, time.perf_counter()))
        if self.going:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def drive(task: Task) -> dict[str, float]:
    """Run the loop; answers per second, and percentiles in seconds."""
    url = urlsplit(task.url)
    requests = []
    for index, text in enumerate(task.bodies):
        body = base64.b64decode(text)
        extra = ""
        if task.header_lengths is not None:
            extra = f"Inference-Header-Content-Length: {task.header_lengths[index]}\r\n"
        head = (
            f"POST {task.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/octet-stream\r\n{extra}\r\n"
        )
        requests.append(head.encode() + body)
    loop = asyncio.get_running_loop()
    times: list[tuple[float, float]] = []
    callers = []
    for number in range(task.connections):
        own = islice(cycle(requests), number % len(requests), None)
        _, caller = await loop.create_connection(
            partial(_Caller, own, times), url.hostname, url.port
        )
        callers.append(caller)
    await asyncio.sleep(task.warmup)
    start = time.perf_counter()
    await asyncio.sleep(task.seconds)
    end = time.perf_counter()
    for caller in callers:
        caller.going = False
    await asyncio.wait([caller.ended for caller in callers], timeout=30)
    spans = np.array([b - a for a, b in times if start <= b < end])
    return {
        "answers": len(spans) / (end - start),
        "p50": float(np.median(spans)) if len(spans) else float("nan"),
        "p99": float(np.quantile(spans, 0.99)) if len(spans) else float("nan"),
        "failures": float(sum(caller.failures for caller in callers)),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drive(Task(**json.load(sys.stdin))))))

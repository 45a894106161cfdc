"""One damaged request against a running server of this process: it must be answered."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from api.server import InferenceServer, ServerEvent
from api.settings import Settings
from benchmarks.fuzz.corpus import ROOT
from benchmarks.fuzz.limits import MEMORY, Peak
from benchmarks.fuzz.outcome import RAN, REFUSED, Outcome
from benchmarks.fuzz.requests import MODELS, Sent, valid_infer

_TIMEOUT: Final = 10.0
_BETWEEN_CHECKS: Final = 20
"""Requests between two valid ones, whose answers must be right."""

_EXPECTED: Final = {501, 503, 504}
"""Statuses of 500 and above that are no defect: unsupported, overloaded, deadline passed."""


def fill(repository: Path) -> None:
    """A repository of one small model per purpose."""

    def info(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    floats, texts, integers = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT32
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32).reshape(5, 2), "table")
    graphs = {
        "identity": ("Identity", ["x"], [info("x", floats, ["N", 2])], floats, []),
        "text": ("Identity", ["x"], [info("x", texts, ["N"])], texts, []),
        "total": (
            "Add",
            ["a", "b"],
            [info(n, integers, ["N", 4]) for n in ("a", "b")],
            integers,
            [],
        ),
        "lookup": (
            "Gather",
            ["table", "index"],
            [info("index", TensorProto.INT64, ["N"])],
            floats,
            [table],
        ),
    }
    for name, (operator, names, inputs, kind, constants) in graphs.items():
        node = helper.make_node(operator, names, ["y"])
        shape: list[int | str] = ["N"] if name == "text" else ["N", 4 if name == "total" else 2]
        graph = helper.make_graph([node], name, inputs, [info("y", kind, shape)], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        _store(repository, name, model.SerializeToString())
    _store(repository, "digits", (ROOT / "examples/digits/digits.onnx").read_bytes())


def _store(repository: Path, name: str, model: bytes) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)


class Target:
    """A server in a thread of this process."""

    def __init__(self, repository: Path, cache: Path) -> None:
        ready = threading.Event()

        def hear(event: ServerEvent) -> None:
            if event.kind in ("ready", "stopped"):
                ready.set()

        settings = Settings(
            repository=repository, port=0, threads=1, cache_dir=cache, body_timeout_s=5
        )
        self.server = InferenceServer(settings, hear)
        self.address = self.server.socket.getsockname()
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        if not ready.wait(60):
            raise RuntimeError("the server does not start")
        self._tried = 0

    def close(self) -> None:
        """Stop the server."""
        self.server.stop()
        self._thread.join(30)

    def attempt(self, sent: Sent) -> Outcome:
        """Send a request; what is answered, and what the server still holds of it."""
        peak, began = Peak(), time.perf_counter()
        outcome = self.judge(sent, self._exchange(sent))
        seconds, memory = time.perf_counter() - began, peak.added()
        self._tried += 1
        if not outcome.is_finding:
            problem = self._problem(memory)
            if problem is not None:
                outcome = problem
        return Outcome(outcome.status, outcome.detail, seconds, memory)

    def _problem(self, memory: int) -> Outcome | None:
        if memory > MEMORY:
            return Outcome("too much memory", f"{memory >> 20} MiB")
        deadline = time.monotonic() + 5
        while self.server.gateway.budget.used:
            if time.monotonic() > deadline:
                return Outcome("too much memory", "bytes of the body stay reserved")
            time.sleep(0.001)
        turn, rest = divmod(self._tried, _BETWEEN_CHECKS)
        if rest == 0 and not self.answers(valid_infer(MODELS[turn % len(MODELS)], Random(0))):
            return Outcome("server error", "a valid request is not answered any more")
        return None

    def answers(self, request: tuple[dict[str, Any], bytes, str]) -> bool:
        """Whether a valid request gets status 200."""
        document, tail, path = request
        body = json.dumps(document).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Length: {len(body + tail)}\r\n"
        )
        if tail:
            head += f"Inference-Header-Content-Length: {len(body)}\r\n"
        sent = Sent(head.encode() + b"\r\n" + body + tail, True)
        return self._exchange(sent).startswith(b"HTTP/1.1 200")

    def _exchange(self, sent: Sent) -> bytes:
        """The whole answer, empty where the connection closes without one."""
        found = b""
        try:
            with socket.create_connection(self.address[:2], _TIMEOUT) as connection:
                try:
                    connection.sendall(sent.content)
                    if not sent.framed:  # nothing more to wait for
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # answered and closed before it had everything
                while part := connection.recv(1 << 16):
                    found += part
        except TimeoutError:
            return b"timeout"
        except OSError:
            return found
        return found

    @staticmethod
    def judge(sent: Sent, answer: bytes) -> Outcome:
        """What an answer counts as."""
        if answer == b"timeout":
            return Outcome("hung", f"no answer within {_TIMEOUT:g} s")
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        if match is None:
            if sent.framed:
                return Outcome("server error", f"no answer but {answer[:60]!r}")
            return Outcome(REFUSED, "the connection is closed")
        status = int(match[1])
        if status >= 500 and status not in _EXPECTED:
            return Outcome("server error", f"{status}: {answer[-200:]!r}")
        return Outcome(RAN if status < 300 else REFUSED, str(status))

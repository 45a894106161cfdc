"""Real servers on loopback ports, with the engine behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.http as triton
from onnx import TensorProto

from api.server import InferenceServer, ServerEvent
from api.settings import Settings
from cluster.channel.inprocess import EngineLoader, InProcessChannel
from tests.cluster import small_models
from tests.cluster.doubles import HeldLoader


class RunningServer:
    """A server in a thread, what holds its worker up, and clients for it."""

    def __init__(self, repository: Path, **settings: Any) -> None:
        self.repository = repository
        self.loader = HeldLoader(EngineLoader())
        self.events: list[ServerEvent] = []
        self.server = InferenceServer(
            Settings(repository=repository, port=0, **settings),
            self.events.append,
            channel=InProcessChannel(self.loader),
        )
        self.url = self.server.url
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=20)

    def wait_for(self, kind: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while True:
            alive = self._thread.is_alive()  # looked at first: the last event precedes the end
            if kind in [event.kind for event in self.events]:
                return
            assert alive, self.events
            assert time.monotonic() < deadline, self.events
            time.sleep(0.005)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def waiting(self, model: str) -> int:
        gateway = self.server.gateway
        return gateway.scheduler.waiting(gateway.catalog.find(model).key)

    def client(self, **options: Any) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.url.removeprefix("http://"), **options)

    def statistics(self, model: str) -> dict[str, Any]:
        return self.http.get(f"/v2/models/{model}/stats").json()["model_stats"][0]

    def infer(self, model: str, content: Any, **options: Any) -> httpx.Response:
        return self.http.post(f"/v2/models/{model}/infer", json=content, **options)

    def stop(self) -> None:
        self.loader.release()
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.http.close()


def fill(repository: Path) -> None:
    """A model for every purpose of the tests."""
    models = {
        "identity": small_models.identity(),
        "flat": small_models.identity(shape=["N"]),
        "fixed": small_models.identity(shape=[4]),
        "scalar": small_models.identity(shape=[]),
        "text": small_models.identity(TensorProto.STRING, ["N"]),
        "one_text": small_models.identity(TensorProto.STRING, [1]),
        "sum_and_difference": small_models.sum_and_difference(),
        "lookup": small_models.lookup(),
        "row_total": small_models.row_total(),
        "reciprocal": small_models.reciprocal(),
        "classifier": small_models.classifier(),
        "insertion": small_models.insertion(),
    }
    for name, model in models.items():
        small_models.store(repository, name, model)
    for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"):
        small_models.store(
            repository, f"identity_{name}", small_models.identity(getattr(TensorProto, name))
        )
    for name, element in (("FP16", "FLOAT16"), ("BF16", "BFLOAT16"), ("FP64", "DOUBLE")):
        model = small_models.identity(getattr(TensorProto, element))
        small_models.store(repository, f"identity_{name}", model)
    small_models.store(repository, "versions", small_models.scale(2), 1)
    small_models.store(repository, "versions", small_models.scale(3), 3)
    (repository / "versions" / "model.yaml").write_text("versions: all\nmax_batch_size: 8\n")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that tests share; they must leave its models as they are."""
    repository = tmp_path_factory.mktemp("repository")
    fill(repository)
    server = RunningServer(repository)
    server.wait_for("ready")
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start a server of one's own: `start({"name": model, ...}, setting=value, ...)`."""
    servers: list[RunningServer] = []

    def start(models: dict[str, Any], *, ready: bool = True, **settings: Any) -> RunningServer:
        for name, model in models.items():
            small_models.store(tmp_path, name, model)
        server = RunningServer(tmp_path, **settings)
        servers.append(server)
        if ready:
            server.wait_for("ready")
        return server

    yield start
    for server in servers:
        server.stop()

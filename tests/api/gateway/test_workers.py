"""The gateway with its models in worker processes, as `packhorse serve --workers` runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from api.server import InferenceServer, StartError
from api.settings import Settings, read_settings
from tests.cluster import small_models
from tests.conftest import ROOT


class Workers:
    """Worker processes that announce themselves in a folder."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "models"
        small_models.store(self.repository, "double", small_models.scale(2))
        small_models.store(self.repository, "sum", small_models.running_sum())
        (self.repository / "sum/model.yaml").write_text("state: {total: next}\n")
        self._folder = folder
        self.announcements = folder / "workers"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cluster.worker", "--name", name, "--cpus", "0"]
        command += ["--announce", str(self.announcements), "--models", str(self.repository)]
        command += ["--sockets", str(self._folder / "sockets")]
        process = subprocess.Popen(command, cwd=ROOT)
        self.processes.append(process)
        return process


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_requests_are_answered_by_workers(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workers.start("test/0")
    environment = {"PACKHORSE_WORKERS": str(workers.announcements), "PACKHORSE_PORT": "0"}
    settings = read_settings({"repository": workers.repository}, environment)
    ready = threading.Event()
    server = InferenceServer(settings, lambda event: event.kind == "ready" and ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(60)
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))

        def ask(rows: int) -> None:
            x = np.random.default_rng(rows).random((rows, 50_000), dtype=np.float32)
            given = triton.InferInput("x", x.shape, "FP32")
            given.set_data_from_numpy(x)
            answer = client.infer("double", [given]).as_numpy("y")
            np.testing.assert_array_equal(answer, 2 * x)

        def add(value: float, **step: bool) -> float:
            given = triton.InferInput("x", (1, 2), "FP32")
            given.set_data_from_numpy(np.full((1, 2), value, np.float32))
            answer = client.infer("sum", [given], sequence_id=7, **step).as_numpy("y")
            assert answer is not None
            return float(answer[0, 0])

        # Put together where the worker reads it: no row of a large request is copied again.
        copied: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr("cluster.channel.tensors.join", lambda *what: copied.append(what))
            ask(1)
            ask(3)
        assert not copied
        assert add(1, sequence_start=True) == 1
        assert add(2) == 3
        # One that is killed is replaced without the client's noticing, in a sequence, too.
        first.kill()
        second = workers.start("test/1")
        ask(2)
        assert add(4) == 7
        assert add(8, sequence_end=True) == 15
        page = httpx.get(f"{server.url}/metrics").text
        assert 'packhorse_channel_workers{state="ready"} 1.0' in page
        assert 'packhorse_channel_workers{state="away"}' not in page
        assert 'packhorse_channel_credits{worker="test/1"} 2.0' in page
        assert "packhorse_channel_workers_died_total 1.0" in page
        client.close()
    finally:
        server.stop()
        thread.join(30)
    assert not thread.is_alive()
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert not list(workers.announcements.iterdir())


def test_a_bad_secret_is_told_at_the_start(tmp_path: Path) -> None:
    small_models.store(tmp_path, "double", small_models.scale(2))
    settings = Settings(repository=tmp_path, port=0, workers=tmp_path, fleet_secret="short")
    with pytest.raises(StartError, match="at least 16 characters"):
        InferenceServer(settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tcp", "127.0.0.1:0"], "shared secret"),
        (["--cpus", "x"], "invalid literal"),
        (["--models", "/nowhere"], "no such file or folder"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "cluster.worker", "--announce", str(tmp_path / "w")]
    command += ["--sockets", str(tmp_path / "sockets"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("worker: ")
    assert message in done.stderr

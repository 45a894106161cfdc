"""Streaming sequences: state between requests, expiry, what is refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from api.errors import ApiError, BadRequestError, OverloadedError
from api.gateway.sequences import Sequences
from api.protocol.sequence import SequenceStep, sequence_step
from cluster.description import TensorDescription
from examples.real_input.sound import waveform
from tests.api.gateway.conftest import RunningServer
from tests.cluster import small_models

FLOAT = np.dtype(np.float32)


@pytest.fixture
def server(start: Callable[..., RunningServer], tmp_path: Any) -> RunningServer:
    folder = tmp_path / "sum"
    folder.mkdir()
    (folder / "model.yaml").write_text("state: {total: next}\n")
    return start({"sum": small_models.running_sum(), "other": small_models.identity()})


def ask(server: RunningServer, value: float, **step: Any) -> np.ndarray:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
    wanted = [triton.InferRequestedOutput("y")]
    with server.client() as client:
        return client.infer("sum", [tensor], outputs=wanted, **step).as_numpy("y")


def test_the_stock_client_streams_sequences(server: RunningServer) -> None:
    for id_ in (7, "seven"):
        assert ask(server, 1, sequence_id=id_, sequence_start=True)[0, 0] == 1
    for id_ in (7, "seven"):
        assert ask(server, 2, sequence_id=id_)[0, 0] == 3
        assert ask(server, 4, sequence_id=id_, sequence_end=True)[0, 0] == 7
    assert len(server.server.gateway.sequences) == 0
    with pytest.raises(triton.InferenceServerException, match="sequence 7 is not known"):
        ask(server, 1, sequence_id=7)


def test_a_sequence_may_begin_anew_and_with_a_state(server: RunningServer) -> None:
    ask(server, 1, sequence_id=1, sequence_start=True)
    assert ask(server, 5, sequence_id=1, sequence_start=True)[0, 0] == 5
    given = {"name": "total", "datatype": "FP32", "shape": [1, 2], "data": [10, 20]}
    one = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    body: dict[str, Any] = {
        "inputs": [one, given],
        "parameters": {"sequence_id": 1, "sequence_start": True},
    }
    assert server.infer("sum", body).json()["outputs"][0]["data"] == [11, 21]
    body["parameters"]["sequence_start"] = False
    refused = server.infer("sum", body)
    assert refused.status_code == 400
    assert "with sequence_start only" in refused.json()["error"]


def test_a_failed_request_leaves_the_state(server: RunningServer) -> None:
    ask(server, 1, sequence_id=1, sequence_start=True)
    wrong = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}
    body = {"inputs": [wrong], "parameters": {"sequence_id": 1}}
    assert server.infer("sum", body).status_code == 400
    assert ask(server, 1, sequence_id=1)[0, 0] == 2


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("other", {"sequence_id": 1, "sequence_start": True}, "keeps no state"),
        ("sum", {"sequence_start": True}, "need a 'sequence_id'"),
        ("sum", {"sequence_id": -1}, "unsigned 64-bit integer"),
        ("sum", {"sequence_id": 1, "sequence_end": 1}, "'sequence_end' must be true or false"),
        ("sum", {"sequence_id": "x" * 200}, "at most 128 characters"),
    ],
)
def test_wrong_parameters_are_refused(
    server: RunningServer, model: str, parameters: dict[str, Any], message: str
) -> None:
    one = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    answer = server.infer(model, {"inputs": [one], "parameters": parameters})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_state_names_must_be_those_of_the_model(
    start: Callable[..., RunningServer], tmp_path: Any
) -> None:
    (tmp_path / "sum").mkdir()
    (tmp_path / "sum/model.yaml").write_text("state: {total: nothing}\n")
    server = start({"sum": small_models.running_sum()}, ready=False, exit_on_error=False)
    server.wait_until(lambda: bool(server.server.gateway.failures))
    assert "output 'nothing'" in server.server.gateway.failures["sum"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


MODEL: Any = SimpleNamespace(
    name="m",
    version="1",
    config=SimpleNamespace(state={"s": "t"}),
    description=SimpleNamespace(
        inputs=(
            TensorDescription("x", FLOAT, ("n",)),
            TensorDescription("s", FLOAT, ("n", 2)),
        )
    ),
)
X = {"x": np.zeros(3, np.float32)}


async def take(sequences: Sequences, id_: int, *, start: bool = False, end: bool = False) -> float:
    """One step that adds one to the state; returns the state before it."""
    async with sequences.turn(MODEL, SequenceStep(id_, start, end), X) as turn:
        before = turn.inputs["s"]
        await asyncio.sleep(0)
        turn.results = {"t": before + 1}
        return float(before[0, 0])


def test_sequences_expire_and_are_bounded() -> None:
    async def play() -> None:
        clock = Clock()
        sequences = Sequences(10, 2, 1 << 20, clock)
        assert await take(sequences, 1, start=True) == 0
        assert sequences.bytes == 24
        clock.now = 6
        assert await take(sequences, 2, start=True) == 0
        with pytest.raises(OverloadedError):
            await take(sequences, 3, start=True)
        clock.now = 12
        assert await take(sequences, 2) == 1
        assert len(sequences) == 1
        with pytest.raises(BadRequestError, match="expired"):
            await take(sequences, 1)
        assert await take(sequences, 2, end=True) == 2
        assert (len(sequences), sequences.bytes, sequences.expired) == (0, 0, 1)

    asyncio.run(play())


def test_states_are_bounded_in_bytes() -> None:
    async def play() -> None:
        sequences = Sequences(10, 100, 50, Clock())
        for id_ in (1, 2, 3):
            await take(sequences, id_, start=True)
        assert sequences.bytes == 48
        with pytest.raises(BadRequestError, match="sequence 1 is not known"):
            await take(sequences, 1)
        assert await take(sequences, 3) == 1

    asyncio.run(play())


def test_requests_of_one_sequence_take_turns() -> None:
    async def play() -> None:
        sequences = Sequences(10, 100, 1 << 20, Clock())
        await take(sequences, 1, start=True)
        found = await asyncio.gather(*(take(sequences, 1) for _ in range(5)))
        assert found == [1, 2, 3, 4, 5]
        late = await asyncio.gather(
            take(sequences, 1, end=True), take(sequences, 1), return_exceptions=True
        )
        assert late[0] == 6
        assert isinstance(late[1], ApiError)
        assert (len(sequences), sequences.bytes) == (0, 0)

    asyncio.run(play())


def test_an_error_at_the_start_keeps_nothing() -> None:
    async def play() -> None:
        sequences = Sequences(10, 100, 1 << 20, Clock())
        with pytest.raises(RuntimeError):
            async with sequences.turn(MODEL, SequenceStep(1, True, False), X):
                raise RuntimeError
        assert (len(sequences), sequences.bytes) == (0, 0)

    asyncio.run(play())


def test_an_unknown_size_of_the_first_state_is_named() -> None:
    async def play() -> None:
        sequences = Sequences(10, 100, 1 << 20, Clock())
        with pytest.raises(BadRequestError, match="send it with sequence_start"):
            async with sequences.turn(MODEL, SequenceStep(1, True, False), {}):
                pass
        assert len(sequences) == 0

    asyncio.run(play())


def test_no_id_is_no_sequence() -> None:
    assert sequence_step({}) is None
    assert sequence_step({"sequence_id": 0}) is None
    assert sequence_step({"sequence_id": ""}) is None


def test_speech_streams_as_with_the_state_sent_along(
    start: Callable[..., RunningServer], tmp_path: Path, models: Path
) -> None:
    folder = tmp_path / "vad" / "1"
    folder.mkdir(parents=True)
    shutil.copy(models / "silero_vad/silero_vad_16k_op15.onnx", folder / "model.onnx")
    (tmp_path / "vad/model.yaml").write_text("state: {state: stateN}\n")
    server = start({}, ready=False)
    server.wait_for("ready", seconds=120)
    samples = waveform(models / "silero_vad/inputs/test.wav", 1.0)
    rate = triton.InferInput("sr", [], "INT64").set_data_from_numpy(np.array(16_000, np.int64))
    state = np.zeros((2, 1, 128), np.float32)
    with server.client() as client:
        for number, first in enumerate(range(0, 576 * 8, 576)):
            window = samples[None, first : first + 576]
            heard = triton.InferInput("input", [1, 576], "FP32").set_data_from_numpy(window)
            given = triton.InferInput("state", [2, 1, 128], "FP32").set_data_from_numpy(state)
            whole = client.infer("vad", [heard, given, rate])
            state = whole.as_numpy("stateN")
            kept = client.infer("vad", [heard, rate], sequence_id=5, sequence_start=number == 0)
            np.testing.assert_array_equal(kept.as_numpy("output"), whole.as_numpy("output"))
            np.testing.assert_array_equal(kept.as_numpy("stateN"), state)

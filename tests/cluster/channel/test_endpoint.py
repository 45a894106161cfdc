"""Who is let in, and what either side does with messages it cannot use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.channel import Batch, ModelKey, ModelSource, wire
from cluster.channel.heartbeat import Heartbeat
from cluster.channel.inprocess import InProcessChannel
from cluster.channel.networked import NetworkedChannel, NetworkOptions
from cluster.channel.sockets import LoopSocket, PeerGoneError, make_socket
from cluster.channel.streams import Stream, StreamListener, connect
from cluster.channel.wire import Kind
from cluster.discovery import EndpointList, WorkerEndpoint, machine_id
from cluster.errors import ChannelError, LoadError
from cluster.precision import PrecisionChoice
from cluster.worker.options import EndpointOptions, private_folder
from cluster.worker.server import EndpointServer
from tests.cluster import small_models
from tests.cluster.channel.conftest import SECRET
from tests.cluster.channel.test_wire import FOREIGN
from tests.cluster.doubles import HeldLoader

KEY = ModelKey("scale", 1, 1)


class Pair:
    """One worker's end and the means to connect to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = small_models.store(folder, "scale", small_models.scale(2))
        self.loader = HeldLoader()
        self.channels: list[NetworkedChannel] = []

    async def open(self, **options: Any) -> WorkerEndpoint:
        options = {"folder": private_folder(self.folder / "sockets"), "credits": 1} | options
        self.server = EndpointServer(
            InProcessChannel(self.loader), EndpointOptions("test/0", **options)
        )
        self.endpoint = await self.server.open()
        return self.endpoint

    def channel(self, endpoint: WorkerEndpoint, **options: Any) -> NetworkedChannel:
        channel = NetworkedChannel(
            EndpointList([endpoint]), NetworkOptions(**({"worker_wait_s": 5.0} | options))
        )
        self.channels.append(channel)
        return channel

    async def load(self, channel: NetworkedChannel, key: ModelKey = KEY) -> None:
        await channel.load(key, ModelSource(self.path))

    async def works(self) -> None:
        """The worker still answers a gateway that knows how to ask."""
        channel = self.channel(self.endpoint, secret=SECRET)
        await self.load(channel)
        answer = await channel.submit(request(np.ones((1, 1), np.float32)))
        assert answer["y"] == 2

    async def close(self) -> None:
        self.loader.release()
        for channel in self.channels:
            await channel.close()
        await self.server.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    yield made
    await made.close()


def request(x: np.ndarray, key: ModelKey = KEY) -> Batch:
    return Batch(key, ({"x": x},), None, time.monotonic() + 20)


class Raw:
    """A peer that sends whatever it is told to."""

    def __init__(self, address: str, server_key: bytes | None = None) -> None:
        self.context: zmq.Context = zmq.Context()
        self.received: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.socket: Stream | LoopSocket
        if address.startswith("ipc://"):
            path = Path(address.removeprefix("ipc://"))
            self.socket = connect(path, self.received.put_nowait, self.ended.set)
        else:
            socket = make_socket(self.context, zmq.DEALER)
            if server_key is not None:
                socket.curve_serverkey = server_key
                socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.connect(address)
            self.socket = LoopSocket(socket, self.received.put_nowait)

    async def ask(self, *frames: bytes) -> wire.Message:
        self.socket.send(frames)
        while True:
            message = wire.unpack(await asyncio.wait_for(self.received.get(), 5))
            if message.kind is not Kind.BEAT:
                return message

    def close(self) -> None:
        self.socket.close()
        self.context.term()


BEAT = wire.pack(Kind.BEAT, {})
HELLO = wire.pack(Kind.HELLO, {"gateway": "raw", "arena": None})


async def test_another_version_is_refused_on_both_sides(pair: Pair, monkeypatch):
    endpoint = await pair.open()
    assert endpoint.ipc is not None
    raw = Raw(endpoint.ipc)
    answer = await raw.ask(FOREIGN)
    raw.close()
    assert answer.kind is Kind.REFUSED
    assert "speaks version" in answer.body["reason"]
    await pair.works()


async def test_a_gateway_says_that_a_worker_has_another_version(tmp_path: Path):
    path = tmp_path / "foreign.sock"
    foreign = StreamListener(
        path, lambda own, frames: own.send([frames[0], FOREIGN]), lambda peer: None
    )
    address = f"ipc://{path}"
    endpoint = WorkerEndpoint("foreign", "test/0", machine_id(), ipc=address)
    channel = NetworkedChannel(EndpointList([endpoint]), NetworkOptions(worker_wait_s=0.5))
    with pytest.raises(LoadError, match=r"speaks version .* run the same release"):
        await channel.load(KEY, ModelSource(tmp_path / "x.onnx"))
    await channel.close()
    foreign.close()


@pytest.mark.parametrize(
    ("secret", "hide_key", "message"),
    [
        (None, False, "PACKHORSE_FLEET_SECRET"),
        ("another secret of the same length", False, "another shared secret"),
        ("another secret of the same length", True, "is its shared secret another one"),
    ],
)
async def test_the_wrong_secret(pair: Pair, secret: str | None, hide_key: bool, message: str):
    endpoint = await pair.open(folder=None, tcp="127.0.0.1:0", secret=SECRET)
    shown = replace(endpoint, key="") if hide_key else endpoint
    channel = pair.channel(shown, secret=secret, worker_wait_s=0.5)
    with pytest.raises(LoadError, match=message):
        await pair.load(channel)
    assert pair.server.sessions == []
    await pair.works()


async def test_without_encryption_nobody_gets_in(pair: Pair):
    endpoint = await pair.open(folder=None, tcp="127.0.0.1:0", secret=SECRET)
    assert endpoint.tcp is not None
    raw = Raw(endpoint.tcp)
    with pytest.raises((TimeoutError, PeerGoneError)):
        await asyncio.wait_for(raw.ask(HELLO), 0.3)
    raw.close()
    assert pair.server.sessions == []


async def test_the_workers_public_key_alone_lets_nobody_in(pair: Pair):
    """Whoever can read the announcement has it."""
    endpoint = await pair.open(folder=None, tcp="127.0.0.1:0", secret=SECRET)
    assert endpoint.tcp is not None
    raw = Raw(endpoint.tcp, endpoint.key.encode())
    with pytest.raises((TimeoutError, PeerGoneError)):
        await asyncio.wait_for(raw.ask(HELLO), 0.5)
    raw.close()
    assert pair.server.sessions == []
    await pair.works()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tcp": "127.0.0.1:0"}, "needs the fleet's shared secret"),
        ({"tcp": "127.0.0.1:0", "secret": "short"}, "at least 16 characters"),
        ({"tcp": "no.such.host.invalid:0", "secret": SECRET}, "cannot listen"),
        ({"folder": None}, "a folder for its socket, or a tcp address"),
    ],
)
async def test_a_worker_that_cannot_listen_says_why(tmp_path: Path, options: dict, message: str):
    options = {"folder": private_folder(tmp_path / "s")} | options
    server = EndpointServer(InProcessChannel(HeldLoader()), EndpointOptions("test/0", **options))
    with pytest.raises(ChannelError, match=message):
        await server.open()


def test_an_open_folder_for_sockets_is_refused(tmp_path: Path):
    tmp_path.chmod(0o755)
    with pytest.raises(ChannelError, match="chmod 700"):
        private_folder(tmp_path)


RUN = wire.pack(Kind.RUN, {"key": list(KEY), "tensors": []}, 1)

NONSENSE: list[list[bytes]] = [
    [b""],
    [b"GET / HTTP/1.1"],
    [HELLO],  # a second one
    [wire.pack(Kind.HELLO, {"gateway": 7})],
    [wire.pack(Kind.WELCOME, {})],
    [wire.pack(Kind.LOAD, {})],
    [wire.pack(Kind.LOAD, {"key": ["m", 1, 1], "path": "relative", "warmup": []})],
    [wire.pack(Kind.LOAD, {"key": ["m", 1, 1], "path": "/x", "warmup": [{"x": ["y"]}]})],
    [wire.pack(Kind.LOAD, {"key": ["m", 1, 1], "path": "/x", "threads": -1, "warmup": []})],
    [wire.pack(Kind.UNLOAD, {"key": [1]})],
    [wire.pack(Kind.BEAT, {"released": "all"})],
    [wire.pack(Kind.BEAT, {"released": [-4096]})],
]


@pytest.mark.parametrize("frames", NONSENSE)
async def test_nonsense_is_refused_and_the_worker_goes_on(pair: Pair, frames: list[bytes]):
    endpoint = await pair.open()
    assert endpoint.ipc is not None
    raw = Raw(endpoint.ipc)
    assert (await raw.ask(HELLO)).kind is Kind.WELCOME
    assert (await raw.ask(*frames)).kind is Kind.REFUSED
    assert pair.server.sessions == []
    raw.close()
    await pair.works()


async def test_runs_that_cannot_be_run_are_answered_one_by_one(pair: Pair):
    endpoint = await pair.open()
    assert endpoint.ipc is not None
    raw = Raw(endpoint.ipc)
    await raw.ask(HELLO)
    answer = await raw.ask(RUN)
    assert (answer.kind, answer.body["error"]) == (Kind.ERROR, "ModelUnavailableError")
    load = wire.pack(Kind.LOAD, {"key": list(KEY), "path": str(pair.path), "warmup": []}, 2)
    while (answer := await raw.ask(load)).kind is Kind.PROGRESS:
        load = wire.pack(Kind.BEAT, {})
    assert answer.kind is Kind.LOADED
    for tensors in ([["x"]], [["x", "float32", [1, 1], [4096, 4]]], [["x", "float32", [9], None]]):
        bad = wire.pack(Kind.RUN, {"key": list(KEY), "tensors": tensors}, 3)
        answer = await raw.ask(bad, *([b"1234"] if tensors[0][-1] is None else []))
        assert (answer.kind, answer.body["error"]) == (Kind.ERROR, "ChannelError")
    assert pair.server.sessions == ["raw"]
    raw.close()


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=3), max_size=8))
def test_a_flood_of_noise(tmp_path_factory, noise: list[list[bytes]]):
    async def scenario() -> None:
        pair = Pair(tmp_path_factory.mktemp("noise"))
        endpoint = await pair.open()
        assert endpoint.ipc is not None
        raw = Raw(endpoint.ipc)
        for frames in noise:
            raw.socket.send(frames)
            raw.socket.send([RUN[:24] + frames[0], *frames[1:]])
        assert (await raw.ask(HELLO)).kind in (Kind.WELCOME, Kind.REFUSED)
        raw.close()
        await pair.works()
        await pair.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: b"garbage",
        lambda header: wire.pack(Kind.ANSWER, {"tensors": []}, 999),
        lambda header: wire.pack(Kind.HELLO, {}),
        lambda header: wire.pack(Kind.BEAT, {"credits": "many"}),
        lambda header: wire.pack(Kind.BEAT, {"credits": 1, "stats": [["x"]]}),
    ],
)
async def test_a_gateway_leaves_a_worker_that_talks_nonsense(pair: Pair, spoil: Callable):
    channel = pair.channel(await pair.open())
    await pair.load(channel)
    (session,) = pair.server._sessions.values()
    session._socket.send([session.peer, spoil(None)])
    while "connected" not in (await states(channel)):
        await asyncio.sleep(0.01)
    answer = await channel.submit(request(np.ones((1, 1), np.float32)))
    assert answer["y"] == 2


async def states(channel: NetworkedChannel) -> str:
    (worker,) = channel.workers()
    return "connected" if worker.state == "ready" else worker.detail


async def test_an_answer_that_cannot_be_read_is_an_error(pair: Pair, monkeypatch):
    channel = pair.channel(await pair.open())
    await pair.load(channel)
    monkeypatch.setattr(
        "cluster.worker.session.Session.answer",
        lambda self, run, outputs: self.send(Kind.ANSWER, {"tensors": [["y"]]}, run.id),
    )
    with pytest.raises(ChannelError, match="cannot be read"):
        await channel.submit(request(np.ones((1, 1), np.float32)))


async def test_large_tensors_beyond_the_shared_memory(pair: Pair):
    """More under way than fits: the rest travels in frames, and the memory is reused after."""
    options = {"shared_bytes": 1 << 20}
    channel = pair.channel(await pair.open(credits=4, **options), **options)
    await pair.load(channel)
    pair.loader.hold()
    x = np.random.default_rng(0).random((4, 100_000), dtype=np.float32)
    first = [channel.submit(request(x[: n + 1, : 40_000 * (n + 1)])) for n in range(4)]
    await asyncio.sleep(0.05)
    pair.loader.release()
    answers = [await each for each in first]
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["y"], 2 * x[: n + 1, : 40_000 * (n + 1)])
    del answers, first, answer
    for _ in range(20):
        answer = await channel.submit(request(x[:2]))
        np.testing.assert_array_equal(answer["y"], 2 * x[:2])
    assert [worker.shared_memory for worker in channel.workers()] == [True]


async def test_answers_are_kept_while_somebody_looks_at_them(pair: Pair):
    options = {"shared_bytes": 1 << 20}
    channel = pair.channel(await pair.open(**options), **options)
    await pair.load(channel)
    x = np.random.default_rng(0).random((1, 50_000), dtype=np.float32)
    kept = [(await channel.submit(request(x + n)))["y"] for n in range(12)]
    for n, answer in enumerate(kept):
        np.testing.assert_array_equal(answer, 2 * (x + n))
    await channel.close()
    np.testing.assert_array_equal(kept[0], 2 * x)


async def test_two_gateways_hold_one_session(pair: Pair):
    endpoint = await pair.open()
    one, two = pair.channel(endpoint), pair.channel(endpoint)
    await asyncio.gather(pair.load(one), pair.load(two, ModelKey("scale", 1, 5)))
    assert len(pair.loader.sessions) == 1
    await one.unload(KEY)
    assert not pair.loader.sessions[0].closed
    answer = await two.submit(request(np.ones((1, 1), np.float32), ModelKey("scale", 1, 5)))
    assert answer["y"] == 2
    await two.unload(ModelKey("scale", 1, 5))
    assert pair.loader.sessions[0].closed


async def test_a_changed_file_is_another_session(pair: Pair):
    channel = pair.channel(await pair.open())
    await pair.load(channel)
    small_models.store(pair.folder, "scale", small_models.scale(3))
    again = ModelKey("scale", 1, 2)
    await pair.load(channel, again)
    for key, factor in ((KEY, 2), (again, 3)):
        answer = await channel.submit(request(np.ones((1, 1), np.float32), key))
        assert answer["y"] == factor


async def test_another_precision_is_another_session(pair: Pair):
    channel = pair.channel(await pair.open())
    await pair.load(channel)
    source = ModelSource(pair.path, precision=PrecisionChoice("bf16"))
    await channel.load(ModelKey("scale", 1, 2), source)
    assert [choice.kind for choice in pair.loader.precisions] == [None, "bf16"]


async def test_models_of_a_lost_gateway_are_kept_for_a_while(pair: Pair):
    beat = Heartbeat(0.02, 0.1)
    endpoint = await pair.open(keep_s=0.3, heartbeat=beat)
    assert endpoint.ipc is not None
    raw = Raw(endpoint.ipc)
    await raw.ask(HELLO)
    load = wire.pack(Kind.LOAD, {"key": list(KEY), "path": str(pair.path), "warmup": []}, 2)
    while (await raw.ask(load)).kind is Kind.PROGRESS:
        load = wire.pack(Kind.BEAT, {})
    raw.close()
    while pair.server.sessions:
        await asyncio.sleep(0.01)
    assert not pair.loader.sessions[0].closed
    async with asyncio.timeout(5):
        while not pair.loader.sessions[0].closed:
            await asyncio.sleep(0.01)


async def test_counters_come_with_the_heartbeat(pair: Pair, monkeypatch):
    beat = Heartbeat(0.02, 1.0)
    channel = pair.channel(await pair.open(heartbeat=beat), heartbeat=beat)
    await pair.load(channel)
    monkeypatch.setattr(pair.loader.sessions[0], "stats", lambda: {"runs": 3, "seconds": 0.5})
    async with asyncio.timeout(5):
        while not channel.stats(KEY):
            await asyncio.sleep(0.01)
    assert channel.stats(KEY) == {"runs": 3, "seconds": 0.5}


@pytest.mark.parametrize(
    "noise",
    [b"\0" * 4, b"\xff" * 64, b"\1\0\0\0" + b"\xff" * 8, b"GET / HTTP/1.1\r\n\r\n" * 10],
)
async def test_a_stream_of_noise_is_ended(pair: Pair, noise: bytes):
    endpoint = await pair.open()
    assert endpoint.ipc is not None
    reader, writer = await asyncio.open_unix_connection(endpoint.ipc.removeprefix("ipc://"))
    writer.write(noise)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await pair.works()


async def test_messages_larger_than_any_buffer(pair: Pair):
    """A stream that the peer reads slowly, in pieces, with nothing in shared memory."""
    channel = pair.channel(await pair.open(shared_bytes=0), shared_bytes=0)
    await pair.load(channel)
    x = np.random.default_rng(0).random((3, 1_000_000), dtype=np.float32)
    answers = [channel.submit(request(x[: n + 1])) for n in range(3)]
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal((await answer)["y"], 2 * x[: n + 1])


async def test_credits_are_divided_among_the_gateways_that_send(pair: Pair):
    beat = Heartbeat(0.02, 5.0)
    endpoint = await pair.open(credits=4, heartbeat=beat)
    one, two = (pair.channel(endpoint, heartbeat=beat) for _ in range(2))
    await asyncio.gather(pair.load(one), pair.load(two))

    async def until(*wanted: int, sending: tuple[NetworkedChannel, ...]) -> None:
        async with asyncio.timeout(10):
            while [worker.credits for c in (one, two) for worker in c.workers()] != [*wanted]:
                for channel in sending:
                    await channel.submit(request(np.ones((1, 1), np.float32)))
                await asyncio.sleep(0.01)

    await until(4, 4, sending=(one,))
    await until(2, 2, sending=(one, two))
    await until(4, 4, sending=(one,))


async def hold_model(pair: Pair, raw: Raw) -> None:
    load = wire.pack(Kind.LOAD, {"key": list(KEY), "path": str(pair.path), "warmup": []}, 1)
    while (await raw.ask(load)).kind is Kind.PROGRESS:
        load = wire.pack(Kind.BEAT, {})


def run_of_one(number: int, left_s: float | None = None) -> list[bytes]:
    body = {"key": list(KEY), "outputs": None, "tensors": [["x", "float32", [1, 1], None]]}
    return [wire.pack(Kind.RUN, body, number, left_s), np.ones(1, np.float32).tobytes()]


async def test_what_is_cancelled_or_late_in_a_workers_queue_is_not_begun(pair: Pair):
    endpoint = await pair.open(credits=4, heartbeat=Heartbeat(0.1, 60))
    assert endpoint.ipc is not None
    raw = Raw(endpoint.ipc)
    await raw.ask(HELLO)
    await hold_model(pair, raw)
    pair.loader.hold()
    before = len(pair.loader.sessions[0].runs)
    raw.socket.send(run_of_one(2))
    raw.socket.send(run_of_one(3, left_s=0.05))
    raw.socket.send(run_of_one(4))
    raw.socket.send(run_of_one(5))
    cancelled = await raw.ask(wire.pack(Kind.CANCEL, {}, 4))
    assert (cancelled.kind, cancelled.id) == (Kind.ERROR, 4)
    assert "cancelled" in cancelled.body["message"]
    await asyncio.sleep(0.1)
    pair.loader.release()
    answers = {message.id: message for message in [await raw.ask(BEAT) for _ in range(3)]}
    assert answers[3].body["error"] == "DeadlineError"
    assert answers[2].kind is answers[5].kind is Kind.ANSWER
    assert len(pair.loader.sessions[0].runs) == before + 2
    raw.close()


async def test_who_asks_to_be_alone_is_until_it_resumes(pair: Pair):
    endpoint = await pair.open(credits=4, heartbeat=Heartbeat(0.1, 60))
    assert endpoint.ipc is not None
    suspicious, other = Raw(endpoint.ipc), Raw(endpoint.ipc)
    for raw in (suspicious, other):
        assert (await raw.ask(HELLO)).kind is Kind.WELCOME
    await hold_model(pair, other)
    session = pair.loader.sessions[0]
    pair.loader.hold()
    other.socket.send(run_of_one(2))
    await asyncio.sleep(0.1)
    # What runs is waited for, and what comes meanwhile is not begun.
    suspicious.socket.send([wire.pack(Kind.ISOLATE, {})])
    other.socket.send(run_of_one(3))
    await asyncio.sleep(0.1)
    before = len(session.runs)
    heard = [
        wire.unpack(suspicious.received.get_nowait()).kind
        for _ in range(suspicious.received.qsize())
    ]
    assert Kind.ISOLATED not in heard
    pair.loader.release()
    assert (await suspicious.ask(wire.pack(Kind.BEAT, {}))).kind is Kind.ISOLATED
    assert (await other.ask(wire.pack(Kind.BEAT, {}))).id == 2
    await asyncio.sleep(0.2)
    assert len(session.runs) == before + 1
    suspicious.socket.send([wire.pack(Kind.RESUME, {})])
    assert (await other.ask(wire.pack(Kind.BEAT, {}))).id == 3
    assert len(session.runs) == before + 2
    for raw in (suspicious, other):
        raw.close()

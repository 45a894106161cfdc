"""A real fleet under Ray: placed, shown, scaled, and surviving the death of a worker."""

import asyncio
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from api.server import InferenceServer
from api.settings import Settings
from cluster.errors import FleetError, SlotTakenError
from cluster.fleet import local
from cluster.fleet.control import Control
from cluster.fleet.directory_client import ask
from cluster.fleet.processes import descendants
from cluster.fleet.status import look
from cluster.topology.affinity import threads
from cluster.topology.leases import take
from cluster.topology.slots import divide
from cluster.topology.tree import read_topology
from tests.cluster.fleet.running import MODEL, ROOT, Running, running

pytest.importorskip("ray", reason="needs packhorse[fleet]")

IMAGE = [(i * 37 % 64) / 64 for i in range(64)]


@contextmanager
def gateway(fleet: Running) -> Iterator[InferenceServer]:
    """A gateway of the fleet in this process."""
    settings = Settings(repository=MODEL, port=0, directory=fleet.record.directory)
    server = InferenceServer(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.gateway.ready and time.monotonic() < until:
            time.sleep(0.02)
        assert server.gateway.ready, server.gateway.failures
        yield server
    finally:
        server.stop()
        thread.join()


class Caller:
    """Sends the same request again and again, and checks every answer."""

    def __init__(self, url: str) -> None:
        tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": IMAGE}
        self._request = urllib.request.Request(
            f"{url}/v2/models/digits/infer", json.dumps({"inputs": [tensor]}).encode()
        )
        self.answered = 0
        self.errors: list[str] = []
        self.slowest_s = 0.0
        self.expected = self.call()
        self._stop = threading.Event()

    def call(self) -> Any:
        with urllib.request.urlopen(self._request, timeout=60) as answer:
            return json.load(answer)["outputs"]

    def __enter__(self) -> "Caller":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                same = self.call() == self.expected
            except Exception as error:
                self.errors.append(repr(error))
            else:
                self.answered += 1
                if not same:
                    self.errors.append("another answer")
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)


def workers(fleet: Running) -> list[dict[str, Any]]:
    return list(asyncio.run(look(fleet.record)).workers)


def await_workers(
    fleet: Running, count: int, but: frozenset[int] = frozenset(), within_s: float = 60
) -> None:
    until = time.monotonic() + within_s
    while True:
        pids = {worker["pid"] for worker in workers(fleet)}
        if len(pids) == count and not pids & but:
            return
        assert time.monotonic() < until, workers(fleet)
        time.sleep(0.05)


def test_this_release_of_ray_is_known() -> None:
    known = pytest.importorskip("cluster.fleet.application").KNOWN_RAY
    assert version("ray").rpartition(".")[0] in known, (
        "cluster/fleet/application.py uses Serve APIs that are marked alpha; run all fleet tests, "
        "--slow, on this release and add it to KNOWN_RAY"
    )


def check_workers_have_a_core_each_with_every_thread(fleet: Running) -> None:
    found = workers(fleet)
    topology = read_topology()
    cores = {cpu.id: cpu.core for cpu in topology.cpus}
    used = []
    for worker in found:
        masks = {thread.cpus for thread in threads(worker["pid"])}
        assert len(threads(worker["pid"])) > 10  # Ray's are among them
        assert len(masks) == 1, masks
        used.append({cores[cpu] for cpu in masks.pop()})
        assert worker["strays"] == []
        assert worker["memory_policy"] in ("preferred", "first-touch")
        assert worker["models"]["digits/1"]["threads"] == worker["worker_threads"]
    assert len(used) == 2
    assert not used[0] & used[1]
    # Another fleet on this machine cannot have their cores.
    for slot in divide(topology, 2):
        with pytest.raises(SlotTakenError, match="leased by fleet 'packhorse'"):
            take(slot, "another fleet", fleet.leases)


def check_serve_shows_the_fleet(fleet: Running) -> None:
    control = fleet.record.control
    state = control.state("packhorse")
    assert state is not None
    assert (state.status, state.wanted, state.running()) == ("RUNNING", 2, 2)
    assert state.running("Directory") == 1
    assert {r.pid for r in state.replicas if r.deployment == "Worker"} == {
        worker["pid"] for worker in workers(fleet)
    }
    assert control.names() == ["packhorse"]
    with pytest.raises(FleetError, match="wants a token"):
        Control(fleet.record.dashboard, "not the token").names()


def check_requests_survive_a_killed_worker_scaling_and_draining(fleet: Running) -> None:
    with gateway(fleet) as server, Caller(server.url) as caller:
        url = server.url
        until = time.monotonic() + 60
        while not (victim := workers(fleet)[0])["standby"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        begin = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)
        # It is the standby that comes, on the very slot that the kernel took from the dead.
        while not (found := [one for one in workers(fleet) if one["stands_in"]]):
            assert time.monotonic() - begin < 60
            time.sleep(0.005)
        (stand_in,) = found
        assert stand_in["slot"] == victim["slot"]
        assert stand_in["pid"] == victim["standby"]
        recovered_s = time.monotonic() - begin
        # And the replica that Serve has started meanwhile takes over.
        await_workers(fleet, 2, but=frozenset({victim["pid"], stand_in["pid"]}))
        replaced_s = time.monotonic() - begin
        assert {worker["slot"] for worker in workers(fleet)} == {"slot0", "slot1"}

        local.scale(fleet.record, 1, 60)
        await_workers(fleet, 1)
        begin = time.monotonic()
        local.scale(fleet.record, 2, 60)
        await_workers(fleet, 2)
        scaled_s = time.monotonic() - begin

        first, second = (worker["worker"] for worker in workers(fleet))
        request = {"do": "drain", "target": first, "wanted": True}
        asyncio.run(ask(fleet.record.directory, fleet.record.secret, request))
        until = time.monotonic() + 20
        while len(channel_workers(server)) != 1:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert channel_workers(server) == [second]
        before = caller.answered
        while caller.answered < before + 5:
            time.sleep(0.01)
        asyncio.run(ask(fleet.record.directory, fleet.record.secret, request | {"wanted": False}))
        while len(channel_workers(server)) != 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        status = asyncio.run(look(fleet.record))
        check_the_board_finds_its_metrics(fleet, url)
    assert caller.errors == []
    assert caller.answered > 20
    assert status.gateways[0]["url"] == url
    print(f"recovered {recovered_s:.1f} s, of which {stand_in['started_s']} s to start")
    print(f"replaced {replaced_s:.1f} s")
    print(f"scaled up {scaled_s:.1f} s, {caller.slowest_s=:.2f}")


def check_the_board_finds_its_metrics(fleet: Running, gateway_url: str) -> None:
    """Every query of the board names metrics that gateways and Ray's nodes really export."""
    board = json.loads((ROOT / "configs/grafana/dashboards/packhorse.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    wanted = {name for query in queries for name in re.findall(r"\b(?:ray_)?packhorse_\w+", query)}
    # Where the kernel does not tell where pages are, nothing is said of them.
    told = all(worker.get("local_pages") is not None for worker in workers(fleet))
    wanted -= set() if told else {"ray_packhorse_worker_local_pages_ratio"}
    missing = wanted
    until = time.monotonic() + 30
    while missing:
        pages = [read(f"{gateway_url}/metrics")]
        found = json.loads(read(f"{fleet.record.dashboard}/api/prometheus/sd", fleet))
        for target in {target for group in found for target in group["targets"]}:
            with suppress(OSError):
                pages.append(read(f"http://{target}/metrics"))
        have = {line.split("{")[0].split(" ")[0] for page in pages for line in page.splitlines()}
        missing = wanted - have
        assert time.monotonic() < until, missing
        time.sleep(0.5)


def read(url: str, fleet: Running | None = None) -> str:
    request = urllib.request.Request(url)
    if fleet is not None:
        assert fleet.record.token_file is not None
        token = Path(fleet.record.token_file).read_text().strip()
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def channel_workers(server: InferenceServer) -> list[str]:
    channel: Any = server.gateway.channel
    return sorted(w.worker for w in channel.workers() if w.state == "ready")


def check_what_cannot_be_is_refused_with_serves_reason(fleet: Running) -> None:
    with pytest.raises(FleetError, match=r"3 workers were asked for, 2 run after 2 s"):
        local.scale(fleet.record, 3, 2)
    local.scale(fleet.record, 2, 60)


def test_a_fleet_from_start_to_end(tmp_path: Path) -> None:
    """One test, because one Ray cluster is all that a run of the tests should have to start."""
    with running(tmp_path) as fleet:
        check_workers_have_a_core_each_with_every_thread(fleet)
        check_serve_shows_the_fleet(fleet)
        check_requests_survive_a_killed_worker_scaling_and_draining(fleet)
        check_what_cannot_be_is_refused_with_serves_reason(fleet)


@pytest.mark.slow
def test_workers_on_several_ray_nodes_and_the_death_of_one(tmp_path: Path) -> None:
    """A worker on each of two nodes, both reached by tcp; one node is killed, another one comes."""
    with running(tmp_path, places=1, sockets=False) as fleet:
        second = local.add_node(fleet.record, 1)
        local.scale(fleet.record, 2, 60)
        await_workers(fleet, 2)
        assert len({worker["node"] for worker in workers(fleet)}) == 2
        with gateway(fleet) as server, Caller(server.url) as caller:
            # Everything of the node at once, as if its machine had lost power.
            (node,) = second.nodes
            for process in [*descendants(node), node]:
                process.signal(signal.SIGKILL)
            begin = time.monotonic()
            await_workers(fleet, 1)
            before = caller.answered
            while caller.answered < before + 20:
                assert not caller.errors
                assert time.monotonic() - begin < 60
                time.sleep(0.01)
            local.add_node(second, 1)
            await_workers(fleet, 2, within_s=120)
        assert caller.errors == []
        assert caller.slowest_s < 10

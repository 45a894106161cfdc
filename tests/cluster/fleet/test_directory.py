"""The directory, its clients, and what happens when it dies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs packhorse[fleet]")

from cluster.discovery import WorkerEndpoint
from cluster.errors import FleetError
from cluster.fleet import protocol
from cluster.fleet.directory import Directory
from cluster.fleet.directory_client import Announcer, DirectoryDiscovery, ask
from cluster.fleet.register import Register, RegisteredGateway

SECRET = "a secret of the tests"


def endpoint(number: int, worker: str = "") -> WorkerEndpoint:
    name = worker or f"node{number}/slot0"
    return WorkerEndpoint(f"i{number}", name, "machine", tcp=f"tcp://127.0.0.1:{9000 + number}")


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Directory, str]]:
    server = Directory(SECRET)
    address = await server.open(listen)
    try:
        yield server, address
    finally:
        await server.close()


class Worker:
    def __init__(self, number: int, address: str) -> None:
        self.address = address
        self.orders: list[bool] = []
        self.announcer = Announcer(
            endpoint(number), SECRET, self.resolve, lambda: {"slot": "slot0"}, self.orders.append
        )

    async def resolve(self) -> str:
        return self.address


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RENEW_S": 0.05, "EXPIRE_S": 1.0, "SETTLE_S": 0.2}.items():
        monkeypatch.setattr(protocol, name, value)


async def until(watch: AsyncIterator[Any], incarnations: set[str]) -> None:
    async with asyncio.timeout(20):
        async for endpoints in watch:
            if {one.incarnation for one in endpoints} == incarnations:
                return


async def test_workers_come_drain_return_and_go() -> None:
    async with serving() as (_, address):
        first, second = Worker(1, address), Worker(2, address)
        discovery = DirectoryDiscovery(address, SECRET, "gateway", lambda: {"url": "http://here"})
        async with aclosing(discovery.watch()) as watch:
            await until(watch, {"i1", "i2"})
            found = await ask(address, SECRET, {"do": "drain", "target": "node1", "wanted": True})
            assert found["workers"] == ["node1/slot0"]
            await until(watch, {"i2"})
            status = await ask(address, SECRET, {"do": "status"})
            assert [one["draining"] for one in status["workers"]] == [True, False]
            assert status["gateways"][0]["url"] == "http://here"
            async with asyncio.timeout(20):
                while first.orders != [True]:
                    await asyncio.sleep(0.01)
            request = {"do": "drain", "target": "node1/slot0", "wanted": False}
            await ask(address, SECRET, request)
            await until(watch, {"i1", "i2"})
            await second.announcer.close()
            await until(watch, {"i1"})
            # A worker that dies without a word is forgotten.
            first.announcer._task.cancel()
            await until(watch, set())
            assert first.announcer._client is not None
            await first.announcer._client.close()


async def test_a_new_directory_learns_everything_and_nothing_is_lost_meanwhile() -> None:
    async with serving() as (_, address):
        first, second = Worker(1, address), Worker(2, address)
        watch = DirectoryDiscovery(address, SECRET, "gateway").watch()
        await until(watch, {"i1", "i2"})
        await ask(address, SECRET, {"do": "drain", "target": "i2", "wanted": True})
        await until(watch, {"i1"})
        async with asyncio.timeout(20):
            while not second.announcer.draining:
                await asyncio.sleep(0.01)
    seen: list[set[str]] = []

    async def follow() -> None:
        async for endpoints in watch:
            seen[len(seen) :] = [{one.incarnation for one in endpoints}]

    following = asyncio.create_task(follow())
    async with serving(address) as (again, _):
        async with asyncio.timeout(20):
            while len(again.register.workers) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        assert again.register.workers["i2"].draining
        assert all("i1" in one for one in seen)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await watch.aclose()  # type: ignore[attr-defined]
        await first.announcer.close()
        await second.announcer.close()


async def test_a_directory_that_moves_is_found_again() -> None:
    async with serving() as (_, address):
        worker = Worker(1, address)
        async with asyncio.timeout(20):
            await worker.announcer.registered.wait()
    async with serving() as (moved, address):
        worker.address = address
        async with asyncio.timeout(20):
            while not moved.register.workers:
                await asyncio.sleep(0.01)
        await worker.announcer.close()


async def test_strangers_and_nonsense_are_refused() -> None:
    async with serving() as (server, address):
        with pytest.raises(FleetError, match="is the shared secret the same"):
            await ask(address, "another secret, not ours", {"do": "status"}, timeout_s=0.5)
        for request, message in [
            ({"do": "fly"}, "cannot 'fly'"),
            ({"do": "announce", "endpoint": 3, "report": {}, "draining": False}, "JSON object"),
            ({"do": "drain", "target": "nobody", "wanted": True}, "no worker or node 'nobody'"),
            ({"do": "watch", "gateway": "g", "report": []}, "JSON object"),
            ({"do": "status", "protocol": 7}, "use the same release"),
        ]:
            with pytest.raises(FleetError, match=message):
                await ask(address, SECRET, request)
        assert server.register.workers == {}
        taken = Directory(SECRET)
        with pytest.raises(FleetError, match="cannot listen"):
            await taken.open(address)


def test_a_silent_gateway_is_forgotten() -> None:
    register = Register()
    register.gateways["g"] = RegisteredGateway({}, 0.0)
    register.announce(endpoint(1), {}, False, 0.3)
    assert not register.expire(1.1)
    assert register.gateways == {}
    assert register.expire(1.4)
    assert register.workers == {}

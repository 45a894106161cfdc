"""Announcing workers and finding them."""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.discovery import (
    Announcement,
    EndpointList,
    FolderDiscovery,
    WorkerEndpoint,
    machine_id,
    new_incarnation,
)

ROOT = Path(__file__).resolve().parents[2]


def endpoint(worker: str = "host/0") -> WorkerEndpoint:
    return WorkerEndpoint(new_incarnation(), worker, machine_id(), ipc="ipc:///tmp/w.sock")


def test_an_endpoint_survives_text():
    original = replace(endpoint(), tcp="tcp://10.0.0.1:5555", key="k")
    assert WorkerEndpoint.from_json(original.to_json()) == original


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"incarnation": "../x", "worker": "w", "machine": "m", "key": ""}',
        '{"incarnation": "a", "worker": 1, "machine": "m", "key": ""}',
        '{"incarnation": "a", "worker": "w", "machine": "m", "key": "", "ipc": "tcp://h:1"}',
    ],
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own messages vary
        WorkerEndpoint.from_json(text)


async def test_a_list_tells_every_change():
    workers = EndpointList([endpoint()])
    watch = workers.watch()
    assert len(await anext(watch)) == 1
    following = asyncio.ensure_future(anext(watch))
    workers.update(workers.endpoints)
    await asyncio.sleep(0)
    assert not following.done(), "nothing has changed"
    workers.update([endpoint(), endpoint()])
    assert len(await asyncio.wait_for(following, 5)) == 2
    workers.update([])
    assert await asyncio.wait_for(anext(watch), 5) == ()


async def test_workers_come_and_go_in_a_folder(tmp_path: Path):
    folder = tmp_path / "workers"
    watch = FolderDiscovery(folder, interval_s=0.01).watch()
    assert await anext(watch) == ()
    a, b = endpoint("host/0"), endpoint("host/1")
    with closing(Announcement(folder, b)):
        assert await asyncio.wait_for(anext(watch), 5) == (b,)
        with closing(Announcement(folder, a)):
            assert await asyncio.wait_for(anext(watch), 5) == (a, b)
        assert await asyncio.wait_for(anext(watch), 5) == (b,)
    assert await asyncio.wait_for(anext(watch), 5) == ()


DYING = """
import os, sys
from pathlib import Path
from cluster.discovery import Announcement, WorkerEndpoint
announcement = Announcement(Path(sys.argv[1]), WorkerEndpoint("one", "host/0", "m"))
print("there", flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def test_a_killed_worker_is_not_found(tmp_path: Path):
    command = [sys.executable, "-c", DYING, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert [found.worker for found in FolderDiscovery(tmp_path).scan()] == ["host/0"]
        process.communicate()
    assert FolderDiscovery(tmp_path).scan() == ()
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_left_out(tmp_path: Path):
    with (tmp_path / "x.json").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("{}")
        file.flush()
        assert FolderDiscovery(tmp_path).scan() == ()

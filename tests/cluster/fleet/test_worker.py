"""A fleet's worker without Ray: the order of its start, what it reports, how it leaves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zmq", reason="needs packhorse[fleet]")

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from cluster.errors import ClusterError
from cluster.fleet.configuration import FleetArguments
from cluster.fleet.directory import Directory
from cluster.fleet.worker import FleetWorker
from cluster.topology import placement

folder, extra = sys.argv[1], json.loads(sys.argv[2])
order = []
SETUP

original = placement.affinity.pin
def pin(cpus):
    order.append(["pin", "numba" in sys.modules, "engine.session" in sys.modules])
    return original(cpus)
placement.affinity.pin = pin

async def main():
    arguments = FleetArguments(**({
        "repository": "examples/digits/digits.onnx", "slots": 1, "leases": folder + "/leases",
        "sockets": folder + "/sockets", "secret_file": folder + "/secret", "patience_s": 0,
    } | extra))
    directory = Directory(open(folder + "/secret").read())
    address = await directory.open("127.0.0.1:0")
    async def resolve():
        return address
    worker = FleetWorker(arguments, fleet="test", node="here", resolve=resolve)
    try:
        await worker.start()
        worker.check()
        listed = directory.register.listed()
        report = worker.report()
        await worker.close()
        left = None
        for _ in range(100):
            left = directory.register.listed()
            if not left:
                break
            await asyncio.sleep(0.02)
        placement.place(1, "the next", folder=Path(arguments.leases))  # the slot is free again
        print(json.dumps({"order": order, "listed": listed, "report": report, "left": left}))
    except ClusterError as error:
        print(json.dumps({"error": str(error), "order": order}))
    await directory.close()

asyncio.run(main())
"""


def run(folder: Path, setup: str = "", **extra: Any) -> Any:
    (folder / "secret").write_text("a secret of the tests")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("SETUP", setup), str(folder), json.dumps(extra)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_pinned_first_then_loaded_then_listed_then_gone(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found["order"][0] == ["pin", False, False]
    (endpoint,) = found["listed"]
    assert endpoint["worker"] == "here/slot0"
    assert endpoint["tcp"].startswith("tcp://127.0.0.1:")
    assert endpoint["ipc"].startswith(f"ipc://{tmp_path}/sockets/")
    report = found["report"]
    assert report["repository_models"] == ["digits"]
    assert report["models"]["digits/1"]["runs"] >= 1  # warmed
    assert report["strays"] == []
    assert found["left"] == []


def test_gateways_may_be_left_with_tcp_alone(tmp_path: Path) -> None:
    (endpoint,) = run(tmp_path, sockets=False)["listed"]
    assert endpoint["ipc"] is None


def test_numba_before_the_pinning_is_refused(tmp_path: Path) -> None:
    found = run(tmp_path, setup="import numba")
    assert "numba was imported before the process was pinned" in found["error"]
    assert found["order"] == []


def test_what_it_cannot_serve_ends_it(tmp_path: Path) -> None:
    assert "nothing to serve" in run(tmp_path, repository="docs")["error"]

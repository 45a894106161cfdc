"""A process puts itself on a slot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import SlotTakenError
from cluster.topology.leases import take
from cluster.topology.placement import place
from cluster.topology.slots import divide
from cluster.topology.tree import read_topology

PLACED = """
import json, sys, threading, time
from pathlib import Path
from cluster.topology.placement import place
assert "numba" not in sys.modules
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
placed = place(2, "test", preferred=int(sys.argv[2]), folder=Path(sys.argv[1]))
import engine
session = engine.load("examples/digits/digits.onnx", placed.slot.threads)
print(json.dumps(placed.report()), flush=True)
sys.stdin.read()
"""
TWO_CORES = pytest.mark.skipif(read_topology().cores < 2, reason="needs two cores to divide")


@TWO_CORES
def test_two_workers_divide_the_machine(tmp_path: Path) -> None:
    processes = []
    try:
        reports = []
        for _ in range(2):
            command = [sys.executable, "-c", PLACED, str(tmp_path), "1"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            reports.append(json.loads(process.stdout.readline()))
        assert [report["slot"] for report in reports] == ["slot1", "slot0"]
        for report in reports:
            assert report["strays"] == []
            assert report["threads"] > report["worker_threads"]
            assert report["memory_policy"] in ("preferred", "first-touch")
        with pytest.raises(SlotTakenError, match=r"slot0.*leased by test, process"):
            place(2, "third", folder=tmp_path)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_refused_process_is_left_as_it_was(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    (whole,) = divide(read_topology(), 1)
    with take(whole, "other", tmp_path), pytest.raises(SlotTakenError):
        place(1, "me", folder=tmp_path)
    with pytest.raises(SlotTakenError, match="it has none"):
        place(1, "me", folder=tmp_path, among=["slot7"])
    assert os.sched_getaffinity(0) == before

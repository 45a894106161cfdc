"""Pinning whole processes, checked by what the kernel shows."""

import os
import subprocess
import sys

import pytest

from cluster.errors import PlacementError
from cluster.topology.affinity import pin, strays, threads

PINNED = """
import threading, time
from cluster.topology.affinity import pin, strays, threads

stop = threading.Event()
old = [threading.Thread(target=stop.wait, name=f"old{i}") for i in range(5)]
for thread in old: thread.start()
assert len(strays({CPU})) == 6, strays({CPU})
assert pin([CPU]) == 6
new = threading.Thread(target=stop.wait)
new.start()
found = threads()
assert len(found) == 7 and all(thread.cpus == {CPU} for thread in found), found
assert not strays({CPU})
stop.set()
import engine.cpu
assert engine.cpu.machine().cpus == (CPU,)
import numba
assert numba.config.NUMBA_NUM_THREADS == 1
print("well")
"""


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to choose from")
def test_every_thread_is_pinned_and_numba_sizes_itself_after_it() -> None:
    cpu = max(os.sched_getaffinity(0))
    assert python(PINNED.replace("CPU", str(cpu))) == "well\n"


def test_another_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = threads(process.pid)
        assert [thread.id for thread in found] == [process.pid]
        assert found[0].cpus == os.sched_getaffinity(process.pid)
        assert strays({10_000}, process.pid) == found


def test_cpus_that_do_not_exist_are_refused() -> None:
    with pytest.raises(PlacementError, match="to CPUs 100000"):
        pin([100_000])

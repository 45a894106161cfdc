"""Processes are told apart, found below others, and ended with everything below them."""

import os
import signal
import subprocess
import sys
import time

from cluster.fleet.processes import ProcessId, descendants, end_tree

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
child = subprocess.Popen([sys.executable, "-c", "import signal, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"])
time.sleep(60)
"""


def test_a_process_is_its_id_and_its_start() -> None:
    own = ProcessId.of(os.getpid())
    assert own is not None
    assert own.alive
    assert not ProcessId(own.pid, own.started + 1).alive
    assert ProcessId.of(2**22 + 1) is None
    # A signal to a process whose id has been taken over by another goes nowhere.
    ProcessId(own.pid, own.started + 1).signal(signal.SIGKILL)


def test_what_ignores_its_end_is_killed_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    root = ProcessId.of(parent.pid)
    assert root is not None
    (child,) = descendants(root)
    begin = time.monotonic()
    end_tree(root, 5)
    assert not root.alive
    assert not child.alive
    assert time.monotonic() - begin < 8
    parent.stdout.close()
    parent.returncode = 0


def test_zombies_are_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    found = ProcessId.of(process.pid)
    until = time.monotonic() + 10
    while found is not None and ProcessId.of(process.pid) is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.wait()

"""Leases between processes, dead and alive."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.errors import PlacementError, SlotTakenError
from cluster.topology.leases import lease_folder, take, take_first
from cluster.topology.slots import Slot


def slot(name: str, *cores: int) -> Slot:
    return Slot(name, cores, cores, len(cores), (0,), (0,), (0,))


HOLD = """
import sys
from pathlib import Path
from cluster.topology.leases import take
from tests.cluster.topology.test_leases import slot
lease = take(slot("theirs", 1, 2), "fleet 'other'", Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds cores 1 and 2."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_slots_cut_differently_exclude_each_other(tmp_path: Path) -> None:
    with take(slot("wide", 0, 1, 2), "one", tmp_path):
        with pytest.raises(
            SlotTakenError, match=r"slot narrow \(CPUs 2-3\): core 2 is leased by one"
        ):
            take(slot("narrow", 2, 3), "two", tmp_path)
        take(slot("free", 3), "two", tmp_path).release()
    with take(slot("narrow", 2, 3), "two", tmp_path):
        pass


def test_a_refused_lease_leaves_nothing_held(tmp_path: Path) -> None:
    with take(slot("a", 5), "one", tmp_path):
        with pytest.raises(SlotTakenError):
            take(slot("b", 4, 5), "two", tmp_path)
        with take(slot("c", 4), "three", tmp_path):
            pass


def test_a_killed_holder_leaves_its_cores_at_once(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        mine = slot("mine", 2, 3)
        with pytest.raises(SlotTakenError, match=f"leased by fleet 'other', process {process.pid}"):
            take(mine, "me", tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with take(mine, "me", tmp_path):
            pass


def test_the_first_free_slot_is_taken_the_preferred_before_others(tmp_path: Path) -> None:
    slots = [slot("a", 0), slot("b", 1), slot("c", 2)]
    leases = [take_first(slots, "me", tmp_path, preferred=1) for _ in range(3)]
    assert [lease.slot.name for lease in leases] == ["b", "c", "a"]
    begin = time.monotonic()
    with pytest.raises(SlotTakenError, match=r"no free slot.*core 1.*core 2.*core 0"):
        take_first(slots, "me", tmp_path, preferred=1, patience_s=0.2)
    assert time.monotonic() - begin >= 0.2
    for lease in leases:
        lease.release()
        lease.release()


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(PlacementError, match="not a link"):
        take(slot("a", 0), "me", link)
    with pytest.raises(PlacementError, match="PACKHORSE_LEASES"):
        take(slot("a", 0), "me", tmp_path / "missing" / "folder")
    (tmp_path / "core0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlacementError, match="core0"):
        take(slot("a", 0), "me", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_folder_is_the_same_for_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(slot("a", 0), "me", tmp_path / "leases").release()
    assert (tmp_path / "leases").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "leases/core0").stat().st_mode & 0o777 == 0o666
    monkeypatch.setenv("PACKHORSE_LEASES", str(tmp_path))
    assert lease_folder() == tmp_path

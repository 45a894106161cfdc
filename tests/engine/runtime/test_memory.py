"""Arenas: they grow without moving, and cost only what is touched."""

import resource
import subprocess
import sys

import pytest

from benchmarks.machine import resident_bytes
from engine.runtime.memory import Arena


def test_an_arena_grows_in_place() -> None:
    arena = Arena()
    small = arena.at_least(1 << 20)
    small.array()[: 1 << 20] = 1
    grown = arena.at_least(300 << 20)
    assert grown.address == small.address
    assert grown.size >= 300 << 20
    assert grown.array()[: 1 << 20].all()
    assert grown.address % (2 << 20) == 0


def test_a_reservation_is_not_resident() -> None:
    before = resident_bytes()
    block = Arena().at_least(1 << 30)
    assert resident_bytes() - before < 1 << 20
    assert block.size >= 1 << 30


def test_little_memory_takes_no_huge_page() -> None:
    assert Arena().at_least(1000).size < 1 << 20


LIMITED = f"""
import resource
from engine.runtime.memory import Arena
used = {resource.getpagesize()} * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
arena = Arena()
first = arena.at_least(1 << 20)
assert first.size < 8 << 20
second = arena.at_least(16 << 20)
assert 16 << 20 <= second.size < 32 << 20
second.array()[:] = 1
"""


def test_where_address_space_is_limited_blocks_grow_as_needed() -> None:
    subprocess.run([sys.executable, "-c", LIMITED], check=True, timeout=60)


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises((OSError, MemoryError)):
        Arena().at_least(1 << 50)

import os

import pytest

from benchmarks.machine import Cache, busy_share, caches, resident_bytes, usable_cpus


def write_cache(root, index, **fields):
    folder = root / "cpu3" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in fields.items():
        (folder / name).write_text(f"{text}\n")


def test_data_caches_from_sysfs(tmp_path):
    write_cache(tmp_path, 0, type="Data", level=1, size="48K", shared_cpu_list="3,7")
    write_cache(tmp_path, 1, type="Instruction", level=1, size="32K", shared_cpu_list="3,7")
    write_cache(tmp_path, 3, type="Unified", level=3, size="105M", shared_cpu_list="0-11,24-35")
    write_cache(tmp_path, 2, type="Unified", level=2, size="2048K", shared_cpu_list="3,7")
    assert caches(3, tmp_path) == [
        Cache(1, 48 << 10, 2),
        Cache(2, 2 << 20, 2),
        Cache(3, 105 << 20, 24),
    ]


def test_a_machine_that_tells_nothing(tmp_path):
    write_cache(tmp_path, 0, type="Unified", level="?", size="1K", shared_cpu_list="3")
    assert caches(3, tmp_path) == []
    assert caches(4, tmp_path) == []


def test_this_process():
    assert set(usable_cpus()) == os.sched_getaffinity(0)
    assert resident_bytes() == pytest.approx(resident_bytes(os.getpid()), rel=0.2)
    assert resident_bytes() > 1 << 20
    assert 0.0 <= busy_share(0.05) <= 1.0

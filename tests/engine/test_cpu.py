"""Detection of CPUs, limits, caches and instruction sets, on recorded machines and on this one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import cgroup, cpu

AVX512_FLAGS = (
    "fpu sse2 pni ssse3 sse4_1 avx f16c fma avx2 bmi1 bmi2 avx512f avx512bw avx512dq avx512vl"
)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine_files(
    cpus: int, flags: str = AVX512_FLAGS, allowed: str | None = None
) -> dict[str, str]:
    """A single-socket machine without SMT: 32 KiB L1, 1 MiB L2 per core, one 8 MiB L3."""
    files = {
        "proc/cpuinfo": f"processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: {flags}\n",
        "proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{allowed or f'0-{cpus - 1}'}\n",
        "sys/devices/system/cpu/online": f"0-{cpus - 1}\n",
    }
    for index in range(cpus):
        folder = f"sys/devices/system/cpu/cpu{index}"
        files[f"{folder}/topology/thread_siblings_list"] = f"{index}\n"
        for number, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "32K", f"{index}"),
                (1, "Instruction", "32K", f"{index}"),
                (2, "Unified", "1024K", f"{index}"),
                (3, "Unified", "8M", f"0-{cpus - 1}"),
            ]
        ):
            files |= {
                f"{folder}/cache/index{number}/level": f"{level}\n",
                f"{folder}/cache/index{number}/type": f"{kind}\n",
                f"{folder}/cache/index{number}/size": f"{size}\n",
                f"{folder}/cache/index{number}/shared_cpu_list": f"{shared}\n",
                f"{folder}/cache/index{number}/coherency_line_size": "64\n",
            }
    return files


def version_2(group: str, mounted: str = "/") -> dict[str, str]:
    return {
        "proc/self/cgroup": f"0::{group}\n",
        "proc/self/mountinfo": (
            "22 27 0:21 / /proc rw - proc proc rw\n"
            f"35 25 0:30 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
        ),
    }


def test_plain_machine(tmp_path: Path) -> None:
    write(tmp_path, machine_files(4))
    machine = cpu.detect(tmp_path)
    assert machine.cpus == (0, 1, 2, 3)
    assert machine.cores == ((0,), (1,), (2,), (3,))
    assert machine.threads == 4
    assert machine.isa == "avx512"
    assert machine.isas == ("baseline", "avx2", "avx512")
    assert not machine.amx
    assert machine.model_name == "Test CPU"
    assert [machine.cache_bytes(level) for level in (1, 2, 3)] == [32 << 10, 1 << 20, 8 << 20]
    assert [cache.level for cache in machine.caches] == [1] * 4 + [2] * 4 + [3]
    assert machine.caches[-1].cpus == (0, 1, 2, 3)
    assert machine.notes == ()


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("sse2 ssse3", "baseline"),
        ("sse2 avx avx2 bmi2 f16c", "baseline"),
        ("sse2 avx avx2 bmi2 f16c fma", "avx2"),
        ("sse2 avx avx2 bmi2 f16c fma avx512f avx512bw avx512dq", "avx2"),
        (AVX512_FLAGS, "avx512"),
        (AVX512_FLAGS + " amx_tile amx_bf16", "avx512"),
    ],
)
def test_instruction_set_needs_every_feature(tmp_path: Path, flags: str, isa: str) -> None:
    write(tmp_path, machine_files(1, flags))
    machine = cpu.detect(tmp_path)
    assert machine.isa == isa
    assert machine.amx == ("amx_tile" in flags)


def test_affinity_cuts_down(tmp_path: Path) -> None:
    write(tmp_path, machine_files(8, allowed="2-3,6"))
    machine = cpu.detect(tmp_path)
    assert machine.cpus == (2, 3, 6)
    assert any("3 of 8" in note for note in machine.notes)


def test_smt_siblings_share_a_core(tmp_path: Path) -> None:
    write(tmp_path, machine_files(4))
    for index in range(4):
        siblings = tmp_path / f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list"
        siblings.write_text(f"{index % 2},{index % 2 + 2}\n")
    assert cpu.detect(tmp_path).cores == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("line", "quota", "threads"),
    [
        ("max 100000", None, 4),
        ("150000 100000", 1.5, 1),
        ("300000 100000", 3, 3),
        ("5000 100000", 0.05, 1),
    ],
)
def test_quota_of_version_2(tmp_path: Path, line: str, quota: float | None, threads: int) -> None:
    write(tmp_path, machine_files(4) | version_2("/pod/box"))
    write(tmp_path, {"sys/fs/cgroup/pod/box/cpu.max": line + "\n"})
    machine = cpu.detect(tmp_path)
    assert machine.quota == quota
    assert machine.threads == threads
    assert (quota is not None) == any("time quota" in note for note in machine.notes)


def test_tightest_level_of_nested_groups_wins(tmp_path: Path) -> None:
    write(tmp_path, machine_files(8) | version_2("/pod/box"))
    write(
        tmp_path,
        {
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/pod/box/cpuset.cpus.effective": "0-5\n",
            "sys/fs/cgroup/pod/cpuset.cpus.effective": "1-7\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": "1073741824\n",
        },
    )
    machine = cpu.detect(tmp_path)
    assert machine.cpus == (1, 2, 3, 4, 5)
    assert machine.threads == 2
    assert machine.memory == 1 << 30


@pytest.mark.parametrize(
    ("group", "mounted"),
    [("/kubepods/pod1/box", "/kubepods/pod1/box"), ("/", "/"), ("/../../other", "/"), ("/a", "/b")],
)
def test_container_that_sees_only_its_own_group(tmp_path: Path, group: str, mounted: str) -> None:
    write(tmp_path, machine_files(8) | version_2(group, mounted))
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert cpu.detect(tmp_path).threads == 2


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path, machine_files(8))
    write(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpuset:/box\n2:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
            "proc/self/mountinfo": (
                "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpuset/box/cpuset.effective_cpus": "4-6\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    machine = cpu.detect(tmp_path)
    assert machine.quota == 2.5
    assert machine.cpus == (4, 5, 6)
    assert machine.threads == 2
    assert machine.memory is None


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "-5 0", "\x00"])
def test_malformed_files_mean_no_limit(tmp_path: Path, text: str) -> None:
    write(tmp_path, machine_files(2) | version_2("/"))
    for name in ("cpu.max", "cpuset.cpus.effective", "memory.max"):
        write(tmp_path, {f"sys/fs/cgroup/{name}": text})
    machine = cpu.detect(tmp_path)
    assert (machine.cpus, machine.quota, machine.memory) == ((0, 1), None, None)


def test_nothing_to_read(tmp_path: Path) -> None:
    machine = cpu.detect(tmp_path)
    assert machine.cpus == (0,)
    assert machine.isa == "baseline"
    assert machine.cache_bytes(1) < machine.cache_bytes(2) < machine.cache_bytes(3)
    assert any("assumed" in note for note in machine.notes)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("", set()), ("7, 9-9\n", {7, 9})]
)
def test_cpu_list(text: str, cpus: set[int]) -> None:
    assert cgroup.parse_cpu_list(text) == cpus


def test_this_machine_follows_affinity() -> None:
    code = (
        "import os; from engine import cpu;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "m = cpu.detect(); assert len(m.cpus) == 1 and m.threads == 1, m; print(m.cpus[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(os.sched_getaffinity(0))


def test_this_machine_agrees_with_numpy() -> None:
    from numpy._core._multiarray_umath import __cpu_features__ as numpy_sees

    features = cpu.machine().features
    for ours, theirs in {"avx2": "AVX2", "fma": "FMA3", "avx512f": "AVX512F"}.items():
        assert (ours in features) == numpy_sees[theirs], ours


def test_amx_permission_says_why() -> None:
    permission = cpu.request_amx()
    assert permission.reason
    if not cpu.machine().amx:
        assert not permission.granted


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errno.ENOSPC, "signal stack"),
        (errno.EINVAL, "Linux 5.16"),
        (errno.EOPNOTSUPP, "switched off"),
        (errno.EPERM, "seccomp"),
        (errno.EIO, "EIO"),
    ],
)
def test_amx_refusals_say_what_to_do(error: int, advice: str) -> None:
    assert advice in cpu.amx_refusal(error)

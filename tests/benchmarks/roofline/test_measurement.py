import os

import pytest

from benchmarks.machine import Cache
from benchmarks.roofline import Effort, Meter
from benchmarks.roofline.instruction_sets import available, host_features
from benchmarks.roofline.measurement import working_sets


def test_a_short_measurement_covers_this_machine():
    before = os.sched_getaffinity(0)
    meter = Meter(Effort(run_seconds=0.001, runs=1))
    limits = meter.measure()
    assert os.sched_getaffinity(0) == before, "the caller was pinned"
    names = {isa.name for isa in available(host_features()) if not isa.uses_tiles}
    assert names <= {peak.name for peak in limits.peaks}
    assert all(0.1 < peak.core < 1e5 and peak.all_cores > 0 for peak in limits.peaks)
    assert limits.bandwidths[-1].level == "memory"
    assert all(row.core > 0.01 and row.all_cores > 0.01 for row in limits.bandwidths)
    peaks = {peak.level: peak for peak in limits.peaks if peak.kind == "fp32"}
    assert meter.fp32() == pytest.approx(max(peak.core for peak in peaks.values()), rel=0.95)
    assert meter.fp32(1, "baseline") == pytest.approx(peaks["baseline"].core, rel=0.95)
    assert meter.fp32(2) == pytest.approx(list(peaks.values())[-1].all_cores, rel=0.95)


def test_working_sets_leave_the_level_below():
    levels = [Cache(1, 32 << 10, 1), Cache(2, 2 << 20, 1), Cache(3, 32 << 20, 8)]
    sets = dict(working_sets(levels, cpus=8))
    assert sets["L1"] == 16 << 10
    assert sets["L2"] == 1 << 20
    # A share of 4 MiB is only twice L2: all of it, since half would be served by L2.
    assert sets["L3"] == 4 << 20
    assert sets["memory"] == 64 << 20


def test_working_sets_of_a_machine_that_tells_nothing():
    assert working_sets([], cpus=2) == [("memory", 64 << 20)]

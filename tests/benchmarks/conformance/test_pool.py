"""A crash or a hang is an outcome, and what follows it still runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.conformance import pool
from benchmarks.conformance.cases import Case
from benchmarks.conformance.trial import CRASHED, HUNG, NATIVE, Outcome


def behave(case: Case, engine: str, cache: Path) -> Outcome:
    if case.name == "crashes":
        os.abort()
    if case.name == "hangs":
        time.sleep(60)
    return Outcome(NATIVE, f"{case.name} in {engine}")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_an_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int
) -> None:
    monkeypatch.setattr(pool, "attempt", behave)
    monkeypatch.setattr(pool, "_CASES_PER_PROCESS", 2)
    names = ["first", "crashes", "second", "hangs", "third", "fourth", "fifth"]
    cases = [Case(name, "node", "Add", b"", (), 1e-3, 1e-7) for name in names]
    found: dict[pool.Job, Outcome] = {}
    jobs = [(index, "packhorse") for index in range(len(cases))]
    pool.run_all(cases, jobs, tmp_path, workers, 2.0, found.__setitem__)
    statuses = {names[index]: outcome.status for (index, _), outcome in found.items()}
    assert statuses == {
        name: {"crashes": CRASHED, "hangs": HUNG}.get(name, NATIVE) for name in names
    }
    assert found[4, "packhorse"].detail == "third in packhorse"


def test_nothing_to_do(tmp_path: Path) -> None:
    pool.run_all([], [], tmp_path, 2, 1.0, lambda job, outcome: None)

"""Trials in worker processes: a crash or a hang is an outcome, and the run goes on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from benchmarks.conformance.cases import Case
from benchmarks.conformance.trial import CRASHED, HUNG, Outcome, attempt
from benchmarks.guarded import Crew, Loss

_CASES_PER_PROCESS: Final = 250
"""A worker is replaced after so many trials, so that what sessions leave behind stays bounded."""

Job = tuple[int, str]
"""Index of a case, and the engine to try it in."""


def run_all(
    cases: list[Case],
    jobs: Iterable[Job],
    cache: Path,
    workers: int,
    timeout: float,
    report: Callable[[Job, Outcome], None],
) -> None:
    """Try every job in one of `workers` processes, each for at most `timeout` seconds."""

    def lost(loss: Loss, detail: str) -> Outcome:
        return Outcome(CRASHED if loss == "crashed" else HUNG, detail)

    Crew[Job, Outcome](
        attempt=lambda job: attempt(cases[job[0]], job[1], cache),
        lost=lost,
        workers=workers,
        timeout=timeout,
        jobs_per_process=_CASES_PER_PROCESS,
        open=_open,
    ).run(jobs, report)


def _open() -> None:
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # onnxruntime then tries newer ones too

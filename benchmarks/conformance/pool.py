"""Trials in worker processes: a crash or a hang is an outcome, and the run goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from benchmarks.conformance.cases import Case
from benchmarks.conformance.trial import CRASHED, HUNG, Outcome, attempt

_CASES_PER_PROCESS: Final = 250
"""A worker is replaced after so many trials, so that what sessions leave behind stays bounded."""

Job = tuple[int, str]
"""Index of a case, and the engine to try it in."""

_FORK: Final = multiprocessing.get_context("fork")


@dataclass
class _Worker:
    cases: list[Case]
    cache: Path
    job: Job | None = None
    deadline: float = 0.0
    tried: int = 0
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Fork: the child has the cases already."""
        self.pipe, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(theirs, self.cases, self.cache))
        self.process.start()
        theirs.close()
        self.tried = 0

    def stop(self, kill: bool = False) -> None:
        """End the process; returns once it is gone."""
        if kill:
            self.process.kill()
        elif self.process.is_alive():
            self.pipe.send(None)
        self.process.join()
        self.pipe.close()

    def give(self, job: Job, timeout: float) -> None:
        """Hand over a job."""
        self.job, self.deadline = job, time.monotonic() + timeout
        self.tried += 1
        self.pipe.send(job)


def run_all(
    cases: list[Case],
    jobs: Iterable[Job],
    cache: Path,
    workers: int,
    timeout: float,
    report: Callable[[Job, Outcome], None],
) -> None:
    """Try every job in one of `workers` processes, each for at most `timeout` seconds."""
    queue = list(reversed(list(jobs)))
    crew = [_Worker(cases, cache) for _ in range(min(workers, len(queue)))]
    busy: list[_Worker] = []
    for worker in crew:
        worker.give(queue.pop(), timeout)
        busy.append(worker)
    while busy:
        wait([w.pipe for w in busy], max(min(w.deadline for w in busy) - time.monotonic(), 0))
        for worker in list(busy):
            outcome = _outcome(worker, timeout)
            if outcome is None:
                continue
            assert worker.job is not None
            report(worker.job, outcome)
            if queue:
                worker.give(queue.pop(), timeout)
            else:
                busy.remove(worker)
                worker.stop()


def _outcome(worker: _Worker, timeout: float) -> Outcome | None:
    """What a worker has to say, None while it is busy; a lost one is replaced."""
    if worker.pipe.poll():
        try:
            outcome: Outcome = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            code = worker.process.exitcode
            worker.start()
            return Outcome(CRASHED, f"the process ended with status {code}")
        if worker.tried >= _CASES_PER_PROCESS:
            worker.stop()
            worker.start()
        return outcome
    if time.monotonic() < worker.deadline:
        return None
    worker.stop(kill=True)
    worker.start()
    return Outcome(HUNG, f"no answer within {timeout:g} s")


def _serve(pipe: Connection, cases: list[Case], cache: Path) -> None:
    """Body of a worker process: job in, outcome out."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # onnxruntime then tries newer ones too
    faulthandler.enable()
    while (job := pipe.recv()) is not None:
        index, engine = job
        pipe.send(attempt(cases[index], engine, cache))

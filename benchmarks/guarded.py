"""Jobs in worker processes: a crash or a hang is an outcome, and the run goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, Literal, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
Loss = Literal["crashed", "hung"]

_FORK: Final = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Crew(Generic[Job, Result]):
    """How jobs are done: `attempt` in a worker process, `lost` where the process ends or hangs.

    `open` runs at the start of every worker process; it is forked, so all three may be closures.
    A worker is replaced after `jobs_per_process`, so that what jobs leave behind stays bounded, and
    a job has `timeout` seconds.
    """

    attempt: Callable[[Job], Result]
    lost: Callable[[Loss, str], Result]
    workers: int
    timeout: float
    jobs_per_process: int = 250
    open: Callable[[], None] = lambda: None

    def run(self, jobs: Iterable[Job], report: Callable[[Job, Result], None]) -> None:
        """Do every job; `report` is called in this process as they end."""
        queue = iter(jobs)
        busy: list[_Worker] = []
        for _ in range(self.workers):
            self._give(_Worker(self), queue, busy)
        while busy:
            pipes = [worker.pipe for worker in busy]
            wait(pipes, max(min(worker.deadline for worker in busy) - time.monotonic(), 0))
            for worker in list(busy):
                if worker.is_done:
                    result = worker.result()
                    busy.remove(worker)
                    report(worker.job, result)
                    self._give(worker, queue, busy)

    @staticmethod
    def _give(worker: _Worker, queue: Iterator[Job], busy: list[_Worker]) -> None:
        for job in queue:
            worker.give(job)
            busy.append(worker)
            return
        worker.stop()


@dataclass
class _Worker:
    """One process; started when it is first given a job."""

    crew: Crew[Any, Any]
    job: Any = None
    deadline: float = 0.0
    tried: int = 0
    process: Any = None
    pipe: Connection = field(init=False)

    def give(self, job: Any) -> None:
        """Hand over a job."""
        if self.process is None or self.tried >= self.crew.jobs_per_process:
            self.stop()
            self._start()
        self.job, self.deadline = job, time.monotonic() + self.crew.timeout
        self.tried += 1
        self.pipe.send(job)

    def _start(self) -> None:
        self.pipe, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(theirs, self.crew))
        self.process.start()
        theirs.close()
        self.tried = 0

    def stop(self, kill: bool = False) -> None:
        """End the process; returns once it is gone."""
        if self.process is None:
            return
        if kill:
            self.process.kill()
        elif self.process.is_alive():
            self.pipe.send(None)
        self.process.join()
        self.pipe.close()
        self.process = None

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or will be none."""
        return self.pipe.poll() or time.monotonic() >= self.deadline

    def result(self) -> Any:
        """What came of the job."""
        if not self.pipe.poll():
            self.stop(kill=True)
            return self.crew.lost("hung", f"no answer within {self.crew.timeout:g} s")
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            self.stop()
            return self.crew.lost("crashed", f"the process ended with status {code}")


def _serve(pipe: Connection, crew: Crew[Any, Any]) -> None:
    """Body of a worker process: job in, result out."""
    faulthandler.enable()
    crew.open()
    while (job := pipe.recv()) is not None:
        pipe.send(crew.attempt(job))

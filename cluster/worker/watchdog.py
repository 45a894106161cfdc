"""Notices a run that never returns, and ends the worker for it.

A native run cannot be interrupted, and the event loop beside it goes on sending heartbeats. What
tells a stuck run from a long one is that the engine's counters of claimed work stand still. Runs
whose counters go on, or have none because an operator runs in Python, end the worker only when
their deadline has passed and they have taken longer than any run should.

To the gateways the end is a death like any other: the batch goes into quarantine, its requests are
tried once more one by one, and the guilty one is refused; see `cluster.channel.quarantine`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import engine

logger = logging.getLogger("packhorse.worker")

_LONGEST_LOOK_S: Final = 1.0
"""What at most counts between two looks: a process that was itself stopped blames nobody."""


def end_process(reason: str) -> None:
    """End this process at once, whatever its threads are doing."""
    logger.critical("this worker ends: %s", reason)
    logging.shutdown()
    os._exit(os.EX_SOFTWARE)


@dataclass(eq=False, slots=True)
class _Watched:
    what: str
    deadline: float
    taken_s: float = 0.0
    still_s: float = 0.0


@dataclass(eq=False)
class Watchdog:
    """Watches the runs of one process.

    A run counts as stuck after `stall_s` seconds in which `progress` has not changed, or `limit_s`
    seconds after its start if its deadline has passed, too; 0 means never. `on_stuck` is called
    with the reason.
    """

    stall_s: float
    limit_s: float
    progress: Callable[[], int | None] = engine.progress
    on_stuck: Callable[[str], None] = end_process
    _runs: dict[object, _Watched] = field(default_factory=dict)
    _before: int | None = None
    _looked: float | None = None

    def begin(self, run: object, what: str, deadline: float) -> None:
        """A run has started; `deadline` on the clock of `look`."""
        self._runs[run] = _Watched(what, deadline)

    def end(self, run: object) -> None:
        """It has returned."""
        self._runs.pop(run, None)

    def look(self, now: float) -> None:
        """Judge the runs; to be called several times a second."""
        passed = 0.0 if self._looked is None else min(now - self._looked, _LONGEST_LOOK_S)
        self._looked = now
        if not self._runs:
            return
        at = self.progress()
        stands = at is not None and at == self._before
        self._before = at
        for run in self._runs.values():
            run.taken_s += passed
            run.still_s = run.still_s + passed if stands else 0.0
            if self.stall_s and run.still_s > self.stall_s:
                self.on_stuck(f"{run.what}: a run has not got on for {run.still_s:.1f} s")
            elif self.limit_s and run.taken_s > self.limit_s and now > run.deadline:
                self.on_stuck(f"{run.what}: a run has taken {run.taken_s:.0f} s, past its deadline")

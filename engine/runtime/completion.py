"""Completion of jobs on an asyncio loop: one eventfd per loop, many completions at a time."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any, ClassVar

from engine.runtime.gang import Gang, Job


class Completions:
    """Futures of the jobs in flight that were submitted from one asyncio loop."""

    _loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Completions]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Held weakly: the registry of loops would otherwise keep every loop alive.
        self._loop = weakref.ref(loop)
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting: dict[Job, tuple[asyncio.Future[int], Any]] = {}
        loop.add_reader(self._descriptor, self._ready)

    @classmethod
    def here(cls) -> Completions:
        """The completions of the running loop."""
        loop = asyncio.get_running_loop()
        found = cls._loops.get(loop)
        if found is None:
            found = cls._loops[loop] = cls(loop)
        return found

    async def run(self, gang: Gang, job: Job, keep: Any) -> int:
        """Submit a job and await its status; `keep` stays alive until the job is finished.

        Cancelling the awaiting task does not stop the job: its memory is kept until it ends.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[job] = (future, keep)
        job.notify(self._descriptor)
        gang.submit(job)
        return await asyncio.shield(future)

    def _ready(self) -> None:
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return
        for job in [job for job in self._waiting if job.finished]:
            future, _ = self._waiting.pop(job)
            if not future.done():
                future.set_result(job.status)

    def __del__(self) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

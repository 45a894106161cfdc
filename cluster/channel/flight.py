"""A batch on its way: from `submit` to its one answer, over however many workers it takes."""

from __future__ import annotations

import asyncio
from asyncio import Future, TimerHandle
from typing import TYPE_CHECKING

from cluster.channel import Batch
from cluster.session import Tensors

if TYPE_CHECKING:
    from cluster.channel.link import Link


class Flight:
    """One batch and the future of its answer, which is set once."""

    __slots__ = ("batch", "future", "id", "link", "returns", "timer")

    def __init__(self, batch: Batch, future: Future[Tensors] | None = None) -> None:
        self.batch = batch
        self.future: Future[Tensors] = (
            future if future is not None else asyncio.get_running_loop().create_future()
        )
        self.link: Link | None = None
        """The worker that has it, None while it waits for one."""
        self.id = 0
        """What it is called on the link."""
        self.returns = 0
        """How often a worker was given up on while it had it."""
        self.timer: TimerHandle | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.future.done()

    def succeed(self, outputs: Tensors) -> None:
        """Answer with outputs, unless there is an answer."""
        self._forget()
        if not self.future.done():
            self.future.set_result(outputs)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless there is an answer."""
        self._forget()
        if not self.future.done():
            self.future.set_exception(error)

    def _forget(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

"""Quarantine: finding out which request kills workers, at the price of one more worker at most.

When a worker dies, every batch that it had is suspect, and may not be sent on as it is: it could
take one worker after another. Its requests run one by one on a worker that is reserved by this
gateway and that runs nothing of any other gateway meanwhile, so that nobody innocent is there when
the guilty one strikes. A request that is alone on a worker when it dies is refused for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cluster.channel import Batch, ModelKey
from cluster.channel.flight import Flight
from cluster.errors import ChannelError, PoisonError
from cluster.ragged import flatten
from cluster.session import Tensor, Tensors

if TYPE_CHECKING:
    from cluster.channel.link import Link

logger = logging.getLogger("packhorse.cluster")

_ATTEMPTS = 2
"""Workers that may fall silent over a request that is alone on them before it counts as guilty."""


class QuarantineOwner(Protocol):
    """The channel whose workers are used."""

    def reserve(self, key: ModelKey) -> Link | None:
        """A worker for suspects of this model."""

    def release(self, link: Link) -> None:
        """Use it for everything again."""

    async def arrival(self, deadline: float) -> None:
        """Wait until workers have changed, or until the deadline."""

    def send_alone(self, link: Link, flight: Flight) -> None:
        """Send a suspect."""


class LostError(ChannelError):
    """A worker was lost while a suspect was alone on it."""

    def __init__(self, message: str, died: bool) -> None:
        super().__init__(message)
        self.died = died


class Quarantine:
    """Runs suspects one by one. Belongs to one event loop's thread."""

    def __init__(self, owner: QuarantineOwner) -> None:
        self._owner = owner
        self._suspects: deque[Flight] = deque()
        self._single: Flight | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self.refused = 0
        """Requests that were found guilty."""

    def owns(self, flight: Flight) -> bool:
        """Whether a flight was sent from here."""
        return flight is self._single

    def add(self, flight: Flight) -> None:
        """Take a batch that was on a worker when it was lost."""
        self._suspects.append(flight)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._suspects:
                await self._examine(self._suspects.popleft())
        finally:
            self._task = None
            self._give_back()

    async def _examine(self, flight: Flight) -> None:
        """Answer a suspect batch."""
        answers: list[Tensors] = []
        errors: list[Exception] = []
        guilty: dict[int, str] = {}
        for index, part in enumerate(flight.batch.parts):
            if not flight.wanted:
                return
            try:
                answers.append(await self._alone(flight, part))
            except LostError as error:
                guilty[index] = str(error)
            except Exception as error:
                # Told as for any batch; the rest is examined all the same.
                errors.append(error)
        name = flight.batch.key.name
        if guilty:
            self.refused += len(guilty)
            logger.error("model '%s': refused for good: %s", name, "; ".join(guilty.values()))
            message = (
                f"model '{name}': a worker ended while it ran this request, and another one while "
                "it ran nothing else; the request is not tried again"
            )
            flight.fail(PoisonError(message, frozenset(guilty)))
        elif errors:
            flight.fail(errors[0])
        else:
            flight.succeed(flatten(answers) if flight.batch.ragged else _join(answers))

    async def _alone(self, flight: Flight, part: Mapping[str, Tensor]) -> Tensors:
        """Run one request of a batch alone; raises `LostError` if it is guilty."""
        batch = flight.batch
        for attempt in range(1, _ATTEMPTS + 1):
            link = await self._isolated(batch.key, batch.deadline)
            single = self._single = Flight(Batch(batch.key, (part,), batch.outputs, batch.deadline))
            self._owner.send_alone(link, single)
            await asyncio.wait([single.future, flight.future], return_when=asyncio.FIRST_COMPLETED)
            self._single = None
            if not single.future.done():
                # Nobody waits any more, and the worker may never be done with it.
                link.cancel(single)
                single.future.cancel()
                self._give_back()
                break
            error = single.future.exception()
            if error is None:
                return single.future.result()
            if not isinstance(error, LostError) or error.died or attempt == _ATTEMPTS:
                raise error
        raise ChannelError(f"model '{batch.key.name}': given up")

    async def _isolated(self, key: ModelKey, deadline: float) -> Link:
        """The worker in quarantine, with nothing on it; raises `ChannelError` if there is none."""
        while True:
            link = self._link
            if link is None:
                link = self._link = self._owner.reserve(key)
                if link is not None:
                    await self._isolate(link, deadline)
                    continue
            elif not link.ready or key not in link.models:
                self._give_back()
                continue
            elif not link.outstanding:
                return link
            if time.monotonic() >= deadline:
                raise ChannelError(f"model '{key.name}': no worker is left to try a request on")
            await self._owner.arrival(deadline)

    async def _isolate(self, link: Link, deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await link.isolate()
        except (ChannelError, TimeoutError):
            self._give_back()

    def _give_back(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.resume()
            self._owner.release(link)


def _join(answers: Sequence[Tensors]) -> Tensors:
    if len(answers) == 1:
        return answers[0]
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}

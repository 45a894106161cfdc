"""Lets contenders take turns, so that each meets the same drift of the machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.remote import RemoteError


class Contender(Protocol):
    """Something whose calls are timed in blocks."""

    name: str

    def block(self, calls: int, discard: int) -> list[float]:
        """Seconds of each of `calls` calls, after `discard` uncounted ones.

        Raises RemoteError where it can take no further part.
        """


@dataclass(frozen=True)
class Pace:
    """Rhythm of a comparison.

    Each round gives each contender one block of about `block_seconds` (at most `max_calls`) after
    a pause of `pause_seconds`, in which the thread pools of the one before stop spinning.
    """

    rounds: int = 5
    block_seconds: float = 0.25
    pause_seconds: float = 0.05
    max_calls: int = 2000


QUICK = Pace(rounds=2, block_seconds=0.02, pause_seconds=0.02, max_calls=50)


@dataclass
class Times:
    """Seconds of every counted call of one contender, and why it stopped, if it did."""

    seconds: list[float] = field(default_factory=list)
    failure: str | None = None


def take_turns(
    contenders: Sequence[Contender], pace: Pace, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Times]:
    """Times of each contender by name.

    The first call of each is not counted and the second sets its number of calls per block. The
    order turns by one place per round, so that nobody always follows the same neighbour. One
    that fails drops out, the others go on.
    """
    times = {contender.name: Times() for contender in contenders}
    calls: dict[str, int] = {}

    def turn(contender: Contender, number: int, discard: int) -> list[float]:
        if times[contender.name].failure is not None:
            return []
        sleep(pace.pause_seconds)
        try:
            return contender.block(number, discard)
        except RemoteError as error:
            times[contender.name].failure = str(error)
            return []

    for contender in contenders:
        for estimate in turn(contender, 1, 1):
            fitting = int(pace.block_seconds / max(estimate, 1e-9))
            calls[contender.name] = min(max(fitting, 1), pace.max_calls)
    for round_number in range(pace.rounds):
        first = round_number % max(len(contenders), 1)
        for contender in [*contenders[first:], *contenders[:first]]:
            number = calls.get(contender.name, 1)
            # A lone long call has no cold start worth a second one.
            block = turn(contender, number, 1 if number > 1 else 0)
            times[contender.name].seconds.extend(block)
    return times

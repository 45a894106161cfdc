"""Lets contenders take turns, so that each meets the same drift of the machine."""

import math
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
    a pause of `pause_seconds`, in which the thread pools of the one before stop spinning. Where a
    probe tells the machine's speed, rounds go on, up to `most_rounds`, until each contender had
    `steady_blocks` at full speed. After `case_seconds` no round begins but the second.
    """

    rounds: int = 5
    block_seconds: float = 0.25
    pause_seconds: float = 0.05
    max_calls: int = 2000
    most_rounds: int = 0
    steady_blocks: int = 0
    case_seconds: float = math.inf


QUICK = Pace(rounds=2, block_seconds=0.02, pause_seconds=0.02, max_calls=50)


@dataclass
class Times:
    """Seconds of every counted call of one contender, and why it stopped, if it did.

    `speeds` is the machine's speed around each of its blocks, the lower of before and after.
    """

    seconds: list[float] = field(default_factory=list)
    failure: str | None = None
    speeds: list[float] = field(default_factory=list)


class Steadiness:
    """Tells whether a machine runs at full speed: within `share` of the best that a probe found.

    The probe knows nothing of contenders or their times, so what follows from it favours nobody.
    """

    def __init__(self, probe: Callable[[], float], share: float) -> None:
        self._probe = probe
        self._share = share
        self.best = 0.0

    def speed(self) -> float:
        """Speed of the machine now."""
        now = self._probe()
        self.best = max(self.best, now)
        return now

    def full(self, speed: float) -> bool:
        """Whether a speed is the machine's full one, as far as it is known."""
        return speed >= self._share * self.best


def take_turns(
    contenders: Sequence[Contender],
    pace: Pace,
    sleep: Callable[[float], None] = time.sleep,
    steadiness: Steadiness | None = None,
    clock: Callable[[], float] = time.monotonic,
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
        if before is None:
            sleep(pace.pause_seconds)
        try:
            return contender.block(number, discard)
        except RemoteError as error:
            times[contender.name].failure = str(error)
            return []

    before: float | None = None
    for contender in contenders:
        for estimate in turn(contender, 1, 1):
            fitting = int(pace.block_seconds / max(estimate, 1e-9))
            calls[contender.name] = min(max(fitting, 1), pace.max_calls)

    def wanting() -> bool:
        """Whether somebody met the machine at full speed too few times."""
        if steadiness is None:
            return False
        return any(
            sum(map(steadiness.full, each.speeds)) < pace.steady_blocks
            for each in times.values()
            if each.failure is None
        )

    started, round_number = clock(), 0
    if steadiness is not None:
        sleep(pace.pause_seconds)
        before = steadiness.speed()
    while round_number < pace.rounds or (round_number < pace.most_rounds and wanting()):
        if round_number >= 2 and clock() - started > pace.case_seconds:
            break
        first = round_number % max(len(contenders), 1)
        for contender in [*contenders[first:], *contenders[:first]]:
            number = calls.get(contender.name, 1)
            # A lone long call has no cold start worth a second one.
            block = turn(contender, number, 1 if number > 1 else 0)
            times[contender.name].seconds.extend(block)
            if steadiness is not None and before is not None:
                sleep(pace.pause_seconds)
                after = steadiness.speed()
                times[contender.name].speeds.append(min(before, after))
                before = after
        round_number += 1
    return times

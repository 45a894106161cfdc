"""Lets contenders take turns, so that each meets the same drift of the machine."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.remote import RemoteError


class Contender(Protocol):
    """Something whose calls are timed in blocks, on so many threads."""

    name: str
    threads: int

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


@dataclass(frozen=True)
class Visit:
    """One block: least seconds of a call, and the cores' speed just before and just after."""

    seconds: float
    before: float
    after: float

    @property
    def speed(self) -> float:
        """What the cores could do at least, as far as the probes tell."""
        return min(self.before, self.after)


@dataclass
class Times:
    """Seconds of every counted call of one contender, and why it stopped, if it did.

    `visits` has an entry per block where the machine was probed.
    """

    seconds: list[float] = field(default_factory=list)
    failure: str | None = None
    visits: list[Visit] = field(default_factory=list)


STEADY = 0.93
"""Share of the best speed of as many cores in a run from which they count as at full speed."""


class Steadiness:
    """Tells whether cores run at full speed: within `STEADY` of the best that a probe found.

    `probe` gives the speed of so many cores together now. It knows nothing of contenders or their
    times, so what follows from it favours nobody.
    """

    def __init__(self, probe: Callable[[int], float]) -> None:
        self._probe = probe
        self.best: dict[int, float] = {}

    def speed(self, threads: int) -> float:
        """Speed of so many cores together now."""
        now = self._probe(threads)
        self.best[threads] = max(self.best.get(threads, 0.0), now)
        return now

    def full(self, speed: float, threads: int) -> bool:
        """Whether a speed of so many cores is their full one, as far as it is known."""
        return speed >= STEADY * self.best.get(threads, 0.0)


def take_turns(
    contenders: Sequence[Contender],
    pace: Pace,
    sleep: Callable[[float], None] = time.sleep,
    steadiness: Steadiness | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Times]:
    """Times of each contender, in their order.

    The first call of each is not counted and the second sets its number of calls per block. The
    order turns by one place per round, so that nobody always follows the same neighbour. One
    that fails drops out, the others go on.
    """
    times = [Times() for _ in contenders]
    calls = [1 for _ in contenders]
    # Speed of so many cores after the last block, if it may stand for the one before the next.
    known: dict[int, float] = {}

    def probed(threads: int) -> float:
        if steadiness is None:
            return 0.0
        return known[threads] if threads in known else steadiness.speed(threads)

    def turn(place: int, number: int, discard: int) -> list[float]:
        if times[place].failure is not None:
            return []
        try:
            return contenders[place].block(number, discard)
        except RemoteError as error:
            times[place].failure = str(error)
            return []

    for place in range(len(contenders)):
        sleep(pace.pause_seconds)
        for estimate in turn(place, 1, 1):
            fitting = int(pace.block_seconds / max(estimate, 1e-9))
            calls[place] = min(max(fitting, 1), pace.max_calls)

    def wanting() -> bool:
        """Whether somebody met the machine at full speed too few times."""
        if steadiness is None:
            return False
        return any(
            sum(steadiness.full(visit.speed, contender.threads) for visit in each.visits)
            < pace.steady_blocks
            for contender, each in zip(contenders, times, strict=True)
            if each.failure is None
        )

    started, round_number = clock(), 0
    while round_number < pace.rounds or (round_number < pace.most_rounds and wanting()):
        if round_number >= 2 and clock() - started > pace.case_seconds:
            break
        for turned in range(len(contenders)):
            place = (round_number + turned) % len(contenders)
            threads, number = contenders[place].threads, calls[place]
            if not known:
                sleep(pace.pause_seconds)
            before = probed(threads)
            known.clear()
            # A lone long call has no cold start worth a second one.
            block = turn(place, number, 1 if number > 1 else 0)
            times[place].seconds.extend(block)
            if block and steadiness is not None:
                sleep(pace.pause_seconds)
                known[threads] = steadiness.speed(threads)
                times[place].visits.append(Visit(min(block), before, known[threads]))
        round_number += 1
    return times

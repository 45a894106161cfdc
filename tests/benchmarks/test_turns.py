from dataclasses import replace

import pytest

from benchmarks.remote import RemoteError
from benchmarks.turns import Pace, Steadiness, Visit, take_turns

PACE = Pace(rounds=3, block_seconds=1.0, pause_seconds=0.05, max_calls=50)


class Clock:
    """Time that passes only when someone sleeps or calls; logs what happened."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def sleep(self, seconds):
        self.now += seconds
        self.log.append("pause")


class Fake:
    threads = 1

    def __init__(self, name, clock, seconds, fails_at=None):
        self.name, self.clock, self.seconds, self.fails_at = name, clock, seconds, fails_at
        self.blocks = []

    def block(self, calls, discard):
        self.blocks.append((calls, discard))
        self.clock.log.append(self.name)
        if len(self.blocks) == self.fails_at:
            raise RemoteError("process ended")
        self.clock.now += self.seconds * (calls + discard)
        return [self.seconds] * calls


def test_every_block_comes_after_a_pause_and_the_order_turns():
    clock = Clock()
    contenders = [Fake(name, clock, 0.1) for name in "abc"]
    take_turns(contenders, PACE, clock.sleep)
    assert clock.log[::2] == ["pause"] * 12
    assert "".join(clock.log[1::2]) == "abc" + "abc" + "bca" + "cab"


def test_blocks_last_about_as_long_for_each():
    clock = Clock()
    fast, slow, instant = Fake("fast", clock, 0.1), Fake("slow", clock, 3.0), Fake("x", clock, 1e-6)
    times = take_turns([fast, slow, instant], PACE, clock.sleep)
    assert fast.blocks == [(1, 1)] + [(10, 1)] * 3
    assert slow.blocks == [(1, 1)] + [(1, 0)] * 3, "a long call is not wasted on warming up"
    assert instant.blocks[1:] == [(PACE.max_calls, 1)] * 3
    assert times[0].seconds == [0.1] * 30
    assert times[1].seconds == [3.0] * 3


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_one_that_fails_drops_out_and_keeps_what_it_had(fails_at):
    clock = Clock()
    broken, sound = Fake("broken", clock, 0.5, fails_at), Fake("sound", clock, 0.5)
    times = take_turns([broken, sound], PACE, clock.sleep)
    assert times[0].failure == "process ended"
    assert len(broken.blocks) == fails_at
    assert len(times[0].seconds) == 2 * max(fails_at - 2, 0)
    assert times[1].failure is None
    assert len(times[1].seconds) == 6


def test_nobody_is_a_field_too():
    assert take_turns([], PACE, Clock().sleep) == []


class Machine:
    """A probe whose speed follows a script; the last one stays."""

    def __init__(self, speeds):
        self.speeds = list(speeds)

    def __call__(self, threads):
        return threads * (self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0])


STEADY = replace(PACE, rounds=2, most_rounds=6, steady_blocks=2)


def test_a_steady_machine_needs_no_more_rounds():
    clock = Clock()
    machine = Steadiness(Machine([100.0]))
    contenders = [Fake(name, clock, 0.1) for name in "ab"]
    times = take_turns(contenders, STEADY, clock.sleep, machine, lambda: clock.now)
    assert [len(each.visits) for each in times] == [2, 2]
    assert clock.log[4:9] == ["pause", "a", "pause", "b", "pause"], "spinning ends before a probe"


def test_rounds_go_on_until_everybody_met_the_full_speed():
    clock = Clock()
    # Around the four blocks of two rounds, only the second contender's are at full speed.
    machine = Steadiness(Machine([100.0, 50.0, 100.0, 100.0, 50.0, 100.0]))
    contenders = [Fake(name, clock, 0.1) for name in "ab"]
    times = take_turns(contenders, STEADY, clock.sleep, machine, lambda: clock.now)
    full = [sum(machine.full(visit.speed, 1) for visit in each.visits) for each in times]
    assert min(full) == 2
    assert len({len(each.visits) for each in times}) == 1, "everybody has every round"


@pytest.mark.parametrize(("seconds", "rounds"), [(1e9, 6), (0.0, 2), (2.5, 3)])
def test_a_machine_that_stays_slow_ends_a_case(seconds, rounds):
    clock = Clock()
    machine = Steadiness(Machine([100.0, 50.0]))
    pace = replace(STEADY, case_seconds=seconds)
    times = take_turns([Fake("a", clock, 0.1)], pace, clock.sleep, machine, lambda: clock.now)
    assert [visit.speed for visit in times[0].visits] == [50.0] * rounds


def test_each_contender_is_probed_on_its_own_number_of_cores():
    clock = Clock()
    one, two = Fake("one", clock, 0.5), Fake("two", clock, 0.25)
    two.threads = 2
    machine = Steadiness(Machine([100.0, 110.0, 90.0, 95.0]))
    times = take_turns([one, two], replace(PACE, rounds=1), clock.sleep, machine)
    assert times[0].visits == [Visit(0.5, 100.0, 110.0)]
    assert times[1].visits == [Visit(0.25, 180.0, 190.0)]
    assert machine.best == {1: 110.0, 2: 190.0}

"""Fair turns: owners get equal time, whatever they send and however much of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.turns import Turns


def serve(turns: Turns[float], seconds: float) -> Counter[str]:
    """Run items, which are what they take, until so much time has passed; time by owner."""
    used: Counter[str] = Counter()
    while used.total() < seconds and (turn := turns.take()) is not None:
        owner, item = turn
        used[str(owner)] += item  # type: ignore[assignment]
        turns.charge(owner, item)
    return used


@given(costs=st.lists(st.floats(0.1, 4.0), min_size=2, max_size=5))
def test_time_is_shared_and_not_turns(costs: list[float]) -> None:
    """No backlogged owner is behind another by more than a run of each (theorem 1 of the paper)."""
    turns: Turns[float] = Turns()
    for number, cost in enumerate(costs):
        for _ in range(500):
            turns.add(f"gateway {number}", cost)
    used = serve(turns, 50.0)
    for one in range(len(costs)):
        for other in range(one):
            difference = abs(used[f"gateway {one}"] - used[f"gateway {other}"])
            assert difference <= costs[one] + costs[other] + 1e-9


def test_who_was_idle_has_saved_nothing_up_and_owes_nothing() -> None:
    turns: Turns[float] = Turns()
    turns.add("idle", 1.0)
    serve(turns, 1)
    for _ in range(100):
        turns.add("busy", 1.0)
    serve(turns, 20)
    for _ in range(100):
        turns.add("idle", 1.0)
        turns.add("late", 1.0)
    used = serve(turns, 30)
    assert all(9 <= used[owner] <= 11 for owner in ("busy", "idle", "late")), used


def test_within_a_line_the_first_goes_first() -> None:
    turns: Turns[str] = Turns()
    for item in ("a", "b", "c"):
        turns.add("one", item)
    assert turns.remove("one", "b")
    assert not turns.remove("one", "b")
    assert not turns.remove("two", "a")
    assert len(turns) == 2
    assert [turns.take(), turns.take(), turns.take()] == [("one", "a"), ("one", "c"), None]


def test_one_alone_and_owners_that_leave() -> None:
    turns: Turns[str] = Turns()
    turns.add("one", "a")
    turns.add("two", "b")
    turns.charge("two", 5.0)
    assert turns.take(only="two") == ("two", "b")
    assert turns.take(only="two") is None
    turns.add("two", "c")
    assert turns.leave("two") == ["c"]
    assert turns.leave("two") == []
    turns.charge("two", 1.0)
    assert turns.take() == ("one", "a")


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_nothing_waits_when_nothing_was_added(seconds: float) -> None:
    turns: Turns[str] = Turns()
    turns.charge("nobody", seconds)
    assert len(turns) == 0
    assert turns.take() is None

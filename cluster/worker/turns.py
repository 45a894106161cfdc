"""Whose batch runs next on a worker that several gateways share.

Every gateway has a queue of its own, and the one that has had the least of the worker's time goes
first (start-time fair queueing: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996,
with equal weights). A gateway that was idle starts level with the others, so that it can neither
save up time nor is made to wait for what it used long ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Line(Generic[Item]):
    def __init__(self, used: float) -> None:
        self.items: deque[Item] = deque()
        self.used = used


class Turns(Generic[Item]):
    """Queues of several owners, taken from in fair turns."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line[Item]] = {}
        self._level = 0.0

    def __len__(self) -> int:
        return sum(len(line.items) for line in self._lines.values())

    def add(self, owner: Hashable, item: Item) -> None:
        """Queue an item at the end of its owner's line."""
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line(self._level)
        elif not line.items:
            line.used = max(line.used, self._level)
        line.items.append(item)

    def take(self, only: Hashable | None = None) -> tuple[Hashable, Item] | None:
        """The next item and its owner, of all owners or of `only` one; None if there is none."""
        best: Hashable | None = None
        for owner, line in self._lines.items():
            allowed = line.items and (only is None or owner == only)
            if allowed and (best is None or line.used < self._lines[best].used):
                best = owner
        if best is None:
            return None
        line = self._lines[best]
        self._level = max(self._level, line.used)
        return best, line.items.popleft()

    def charge(self, owner: Hashable, seconds: float) -> None:
        """Note what an owner has used."""
        line = self._lines.get(owner)
        if line is not None:
            line.used += seconds

    def remove(self, owner: Hashable, item: Item) -> bool:
        """Take an item out of its line; False if it is not there."""
        line = self._lines.get(owner)
        if line is None or item not in line.items:
            return False
        line.items.remove(item)
        return True

    def leave(self, owner: Hashable) -> list[Item]:
        """Forget an owner; returns what was in its line."""
        line = self._lines.pop(owner, None)
        return list(line.items) if line is not None else []

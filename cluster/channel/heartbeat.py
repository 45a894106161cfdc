"""Heartbeats: how either side of a connection learns that the other one lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A peer that is silent for `dead_after_s` counts as dead; one speaks every `interval_s`."""

    interval_s: float = 0.25
    dead_after_s: float = 1.0


class Pulse:
    """Calls `on_beat` with the time at every interval, and judges silence.

    A process that was itself stopped, or whose loop was busy, has read nothing meanwhile and must
    not blame its peers: after such a gap they get their time anew.
    """

    def __init__(self, heartbeat: Heartbeat, on_beat: Callable[[float], None]) -> None:
        self._heartbeat = heartbeat
        self._on_beat = on_beat
        self._loop = asyncio.get_running_loop()
        self._last = self._since = time.monotonic()
        self._timer = self._loop.call_later(heartbeat.interval_s, self._beat)

    def silent(self, last_seen: float) -> bool:
        """Whether a peer that was last heard at `last_seen` has been silent for too long."""
        return time.monotonic() - max(last_seen, self._since) > self._heartbeat.dead_after_s

    def stop(self) -> None:
        """Call no more."""
        self._timer.cancel()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last > 2 * self._heartbeat.interval_s:
            self._since = now
        self._last = now
        self._timer = self._loop.call_later(self._heartbeat.interval_s, self._beat)
        self._on_beat(now)

"""What a channel tells of its workers and of itself, for people and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COUNTERS: Final = {
    "workers_died": "Workers whose process ended while they were connected.",
    "workers_silent": "Workers given up on because no heartbeat came.",
    "batches_replayed": "Batches sent to another worker because theirs was lost.",
    "batches_quarantined": "Batches whose requests were run one by one because a worker died.",
    "requests_refused": "Requests refused because they end workers.",
}
"""What a channel counts from its start on, with what that means."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a gateway knows of a worker; `state` is ready, leaving, connecting or away."""

    worker: str
    incarnation: str
    state: str
    detail: str
    models: int
    outstanding: int
    credits: int
    shared_memory: bool

"""A request that waits for its answer."""

from __future__ import annotations

from asyncio import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.catalog import ServedModel
from cluster.session import Tensors

if TYPE_CHECKING:
    from api.batching.lane import Lane


@dataclass(frozen=True, slots=True)
class InferResult:
    """Outputs of one request; times on the clock of `time.perf_counter_ns`."""

    outputs: Tensors
    queue_ns: int
    run_ns: int


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request in a lane or in a running batch.

    `rows` is its size along the batch axis. `deadline` is on the clock of `time.monotonic`, in
    seconds; `order` says which of two requests of the same priority came first.
    """

    model: ServedModel
    inputs: Tensors
    outputs: frozenset[str]
    rows: int
    priority: int
    order: int
    deadline: float
    queued_ns: int
    future: Future[InferResult]
    lane: Lane | None = None

    def __lt__(self, other: PendingRequest) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)

"""A lane: requests that may share a batch, since nothing but what the model allows differs."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from api.batching.pending import PendingRequest
from cluster.catalog import ServedModel
from cluster.session import Tensors


def lane_key(model: ServedModel, inputs: Tensors) -> Hashable:
    """What two requests must have in common to share a batch.

    The model incarnation, and for every input its data type and its shape without the batch axis;
    where the engine runs requests of different lengths together, the data type alone.
    """
    if model.ragged is not None:
        return (model.key, tuple(inputs[t.name].dtype for t in model.description.inputs))
    return (
        model.key,
        tuple(
            (inputs[tensor.name].dtype, inputs[tensor.name].shape[1:])
            for tensor in model.description.inputs
        ),
    )


class Lane:
    """Requests of one lane, by priority and then by arrival.

    Lanes know nothing of each other: a request of another shape never closes a batch here.
    """

    def __init__(self, key: Hashable, model: ServedModel, max_rows: int) -> None:
        """A batch of this lane has at most `max_rows` rows."""
        self.key = key
        self.model = model
        self._max_rows = max_rows
        self._waiting: list[PendingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> PendingRequest:
        """The request that is served next."""
        return self._waiting[0]

    def add(self, request: PendingRequest) -> None:
        """Queue a request."""
        heapq.heappush(self._waiting, request)

    def remove(self, request: PendingRequest) -> bool:
        """Take a request out before it runs; False if it is not waiting here."""
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        heapq.heapify(self._waiting)
        return True

    def take(self) -> list[PendingRequest]:
        """Form a batch: requests in order while they fit.

        The first is always taken, also if it alone has more rows than a batch should.
        """
        batch = [heapq.heappop(self._waiting)]
        rows = batch[0].rows
        while self._waiting and rows + self._waiting[0].rows <= self._max_rows:
            batch.append(heapq.heappop(self._waiting))
            rows += batch[-1].rows
        return batch

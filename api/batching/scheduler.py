"""The scheduler: puts requests into lanes and hands batches to idle workers.

A batch forms while workers are busy: whatever waits in a lane when a worker becomes idle goes
together. An idle worker never waits for company. Which lane goes next is decided by its foremost
request: lowest priority number first, then longest waiting.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from asyncio import Future
from collections.abc import Hashable, Sequence
from functools import partial

from api.batching.lane import Lane, lane_key
from api.batching.pending import InferResult, PendingRequest
from api.errors import OverloadedError
from api.settings import Settings
from api.statistics import Statistics
from cluster.catalog import ServedModel
from cluster.channel import Batch, Channel, ModelKey
from cluster.errors import ClusterError, DeadlineError, PoisonError
from cluster.ragged import sizes_of, split
from cluster.session import Tensors
from engine.errors import InputError, RunError

logger = logging.getLogger("packhorse.batching")

_SMOOTHING = 0.2  # weight of the newest batch in the running mean of the time per row


class Scheduler:
    """Batches requests over one channel; all methods belong to one event loop's thread."""

    def __init__(self, channel: Channel, statistics: Statistics, settings: Settings) -> None:
        self._channel = channel
        self._statistics = statistics
        self._settings = settings
        self._lanes: dict[Hashable, Lane] = {}
        self._waiting: dict[ModelKey, int] = {}
        self._seconds_per_row: dict[tuple[str, str], float] = {}
        self._order = 0
        self._pump_planned = False
        channel.on_idle(self._pump)

    async def infer(
        self,
        model: ServedModel,
        inputs: Tensors,
        outputs: Sequence[str],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run a checked request, together with others where its model allows.

        Cancelling the call takes the request out of the batch that is forming. Raises
        `OverloadedError` at once if the queue is full, `DeadlineError` when the deadline passes,
        and what the run of this request raises; never what another request caused.
        """
        request = self._request(model, inputs, outputs, priority, timeout_s)
        self._admit(model)
        key: Hashable = lane_key(model, inputs)
        if not model.description.batch_axis or request.rows == 0:
            key = request.order
        self._enqueue(key, request)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(request.deadline - time.monotonic(), self._expire, request)
        if not self._pump_planned:
            # At the end of this turn of the loop: requests that are being read in the same turn
            # still make it into the batch, and nothing waits for the clock.
            self._pump_planned = True
            loop.call_soon(self._pump)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._withdraw(request)
            raise
        finally:
            timer.cancel()

    def waiting(self, key: ModelKey) -> int:
        """Requests of a model incarnation that wait for a worker."""
        return self._waiting.get(key, 0)

    def lanes(self, key: ModelKey) -> list[int]:
        """How many requests wait in each lane of a model incarnation."""
        return [len(lane) for lane in self._lanes.values() if lane.model.key == key]

    def _request(
        self,
        model: ServedModel,
        inputs: Tensors,
        outputs: Sequence[str],
        priority: int,
        timeout_s: float | None,
    ) -> PendingRequest:
        longest = self._settings.request_timeout_s
        allowed = model.config.timeout_s or longest
        timeout = min(allowed if timeout_s is None else timeout_s, max(allowed, longest))
        self._order += 1
        first = inputs[model.description.inputs[0].name] if model.description.inputs else None
        return PendingRequest(
            model=model,
            inputs=inputs,
            outputs=frozenset(outputs),
            rows=first.shape[0] if first is not None and model.description.batch_axis else 1,
            priority=priority or self._settings.default_priority,
            order=self._order,
            deadline=time.monotonic() + timeout,
            queued_ns=time.perf_counter_ns(),
            future=asyncio.get_running_loop().create_future(),
        )

    def _admit(self, model: ServedModel) -> None:
        limit = model.config.max_queue or self._settings.max_queue
        waiting = self._waiting.get(model.key, 0)
        if waiting >= limit:
            wait = waiting * self._seconds_per_row.get((model.name, model.version), 0.0)
            raise OverloadedError(
                f"model '{model.name}': {waiting} requests wait already, the limit is {limit}; "
                "try again later",
                retry_after=max(1, min(60, math.ceil(wait))),
            )

    def _enqueue(self, key: Hashable, request: PendingRequest) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            rows = request.model.config.max_batch_size or self._settings.max_batch_size
            limits = request.model.config.largest.values()
            rows = min([rows, *(limit[0] for limit in limits if limit)])
            lane = self._lanes[key] = Lane(key, request.model, rows)
        request.lane = lane
        lane.add(request)
        self._count(request.model.key, 1)

    def _count(self, key: ModelKey, change: int) -> None:
        count = self._waiting.get(key, 0) + change
        if count:
            self._waiting[key] = count
        else:
            self._waiting.pop(key, None)

    def _withdraw(self, request: PendingRequest) -> None:
        lane = request.lane
        if lane is not None and lane.remove(request):
            self._count(request.model.key, -1)
            if not lane:
                del self._lanes[lane.key]

    def _expire(self, request: PendingRequest) -> None:
        self._withdraw(request)
        if not request.future.done():
            waited = (time.perf_counter_ns() - request.queued_ns) / 1e9
            request.future.set_exception(
                DeadlineError(
                    f"model '{request.model.name}': no answer within the deadline of {waited:.3g} s"
                )
            )

    def _pump(self) -> None:
        self._pump_planned = False
        while (lane := self._next_lane()) is not None:
            batch = lane.take()
            if not lane:
                del self._lanes[lane.key]
            self._count(lane.model.key, -len(batch))
            self._start(batch)

    def _next_lane(self) -> Lane | None:
        best: Lane | None = None
        idle: dict[ModelKey, bool] = {}
        for lane in self._lanes.values():
            key = lane.model.key
            if key not in idle:
                idle[key] = self._channel.idle(key)
            if idle[key] and (best is None or lane.head < best.head):
                best = lane
        return best

    def _start(self, requests: list[PendingRequest]) -> None:
        model = requests[0].model
        wanted = frozenset[str]().union(*(request.outputs for request in requests))
        batch = Batch(
            model.key,
            [request.inputs for request in requests],
            tuple(spec.name for spec in model.description.outputs if spec.name in wanted),
            max(request.deadline for request in requests),
            ragged=model.ragged is not None and _differ(requests),
        )
        started_ns = time.perf_counter_ns()
        try:
            answer = self._channel.submit(batch)
        except ClusterError as error:
            _fail(requests, error)
            return
        answer.add_done_callback(partial(self._finish, requests, batch.ragged, started_ns))

    def _finish(
        self,
        requests: list[PendingRequest],
        ragged: bool,
        started_ns: int,
        answer: Future[Tensors],
    ) -> None:
        error = answer.exception()
        if error is not None:
            self._explain(requests, error)
            return
        run_ns = time.perf_counter_ns() - started_ns
        try:
            parts = _parts(requests, answer.result(), ragged)
        except ValueError as problem:
            model = requests[0].model
            logger.error("model '%s' does not keep its batch rows apart: %s", model.name, problem)
            self._run_alone(requests)
            return
        rows = sum(request.rows for request in requests)
        self._learn(requests[0].model, rows, len(requests), run_ns)
        for request, own in zip(requests, parts, strict=True):
            if not request.future.done():
                queue_ns = started_ns - request.queued_ns
                request.future.set_result(InferResult(own, queue_ns, run_ns))

    def _explain(self, requests: list[PendingRequest], error: BaseException) -> None:
        """Find out whose fault a failed batch is, by running its requests one by one."""
        if len(requests) > 1 and isinstance(error, InputError | RunError):
            self._run_alone(requests)
            return
        if isinstance(error, PoisonError):
            _fail([requests[index] for index in sorted(error.parts)], error)
            self._run_alone(requests)
            return
        _fail(requests, error)

    def _run_alone(self, requests: list[PendingRequest]) -> None:
        for request in requests:
            if not request.future.done():
                self._enqueue(request.order, request)
        self._pump()

    def _learn(self, model: ServedModel, rows: int, requests: int, run_ns: int) -> None:
        self._statistics.of(model.name, model.version).executed(rows, requests, run_ns)
        newest = run_ns / 1e9 / max(rows, 1)
        key = (model.name, model.version)
        before = self._seconds_per_row.get(key, newest)
        self._seconds_per_row[key] = before + _SMOOTHING * (newest - before)


def _differ(requests: list[PendingRequest]) -> bool:
    """Whether requests differ in more than their rows."""
    first = requests[0].inputs
    return any(
        array.shape[1:] != first[name].shape[1:]
        for request in requests
        for name, array in request.inputs.items()
    )


def _parts(requests: list[PendingRequest], outputs: Tensors, ragged: bool) -> list[Tensors]:
    """The outputs of every request of a batch; ValueError where they are not those of its rows."""
    if len(requests) == 1:
        return [outputs]
    description = requests[0].model.description
    if ragged and (axes := description.ragged) is not None:
        sizes = [sizes_of(axes, description.inputs, request.inputs) for request in requests]
        return split(axes, description.outputs, outputs, sizes)
    rows = sum(request.rows for request in requests)
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"'{name}' has the shape {list(array.shape)} for {rows} rows")
    parts: list[Tensors] = []
    position = 0
    for request in requests:
        span = slice(position, position + request.rows)
        parts.append({name: array[span] for name, array in outputs.items()})
        position += request.rows
    return parts


def _fail(requests: list[PendingRequest], error: BaseException) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)

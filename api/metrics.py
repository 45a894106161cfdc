"""The metrics page. Numbers are read when it is asked for; requests pay nothing for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from api.gateway.state import Gateway
from api.statistics import LATENCY_BOUNDS_S, ModelStatistics
from cluster.channel.status import COUNTERS

LABELS = ("model", "version")


def render_metrics(gateway: Gateway, accept: str | None) -> tuple[bytes, str]:
    """The page and its media type, in the format that the `Accept` header asks for."""
    registry = _process_registry()
    own = CollectorRegistry(auto_describe=False)
    own.register(GatewayCollector(gateway))
    encode, media_type = choose_encoder(accept or "")
    if "openmetrics" in media_type:  # ends with an end mark: one registry per page
        return encode(own), media_type
    return encode(own) + encode(registry), media_type


@cache
def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class GatewayCollector(Collector):
    """Turns the counters of a gateway into metrics."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """Every metric, under our names and under Triton's."""
        models = self._gateway.statistics.all()
        yield from self._state()
        yield from _own(models)
        yield from self._triton(models)
        yield from self._engine()
        yield from self._workers()

    def _state(self) -> Iterator[Metric]:
        gateway = self._gateway
        ready = GaugeMetricFamily("packhorse_ready", "1 if every model serves.")
        ready.add_metric([], float(gateway.ready))
        yield ready
        held = GaugeMetricFamily("packhorse_body_bytes", "Bytes of request bodies held now.")
        held.add_metric([], gateway.budget.used)
        yield held
        waiting = GaugeMetricFamily(
            "packhorse_waiting_requests", "Requests that wait for a worker.", labels=LABELS
        )
        lanes = GaugeMetricFamily(
            "packhorse_lanes", "Lanes in which requests wait for a worker.", labels=LABELS
        )
        longest = GaugeMetricFamily(
            "packhorse_longest_lane_requests", "Requests that wait in the fullest.", labels=LABELS
        )
        for model in gateway.catalog.served():
            labels = [model.name, model.version]
            sizes = gateway.scheduler.lanes(model.key)
            waiting.add_metric(labels, gateway.scheduler.waiting(model.key))
            lanes.add_metric(labels, len(sizes))
            longest.add_metric(labels, max(sizes, default=0))
        yield from (waiting, lanes, longest)

    def _triton(self, models: list[ModelStatistics]) -> Iterator[Metric]:
        """Metrics under the names of Triton, so that boards made for it show us too."""
        plain: dict[str, Callable[[ModelStatistics], int]] = {
            "nv_inference_request_success": lambda m: m.success.count,
            "nv_inference_count": lambda m: m.inferences,
            "nv_inference_exec_count": lambda m: m.executions,
            "nv_inference_request_duration_us": lambda m: m.success.ns // 1000,
            "nv_inference_queue_duration_us": lambda m: m.queue.ns // 1000,
            "nv_inference_compute_input_duration_us": lambda m: m.compute_input.ns // 1000,
            "nv_inference_compute_infer_duration_us": lambda m: m.compute_infer.ns // 1000,
            "nv_inference_compute_output_duration_us": lambda m: m.compute_output.ns // 1000,
        }
        for name, value in plain.items():
            # Untyped, because the client library would end a counter's name in `_total`.
            family = UntypedMetricFamily(name, "As Triton's metric of this name.", labels=LABELS)
            for model in models:
                family.add_metric([model.name, model.version], value(model))
            yield family
        failures = UntypedMetricFamily(
            "nv_inference_request_failure",
            "As Triton's metric of this name.",
            labels=(*LABELS, "reason"),
        )
        for model in models:
            for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
                found = model.failures.get(reason)
                failures.add_metric(
                    [model.name, model.version, reason], found.count if found else 0
                )
        yield failures
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count",
            "As Triton's metric of this name.",
            labels=LABELS,
        )
        for served in self._gateway.catalog.served():
            pending.add_metric(
                [served.name, served.version], self._gateway.scheduler.waiting(served.key)
            )
        yield pending

    def _engine(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for model in self._gateway.catalog.served():
            for counter, value in self._gateway.channel.stats(model.key).items():
                name = "packhorse_engine_" + re.sub(r"[^a-zA-Z0-9_]", "_", counter)
                family = families.setdefault(
                    name, GaugeMetricFamily(name, f"Session counter {counter}.", labels=LABELS)
                )
                family.add_metric([model.name, model.version], value)
        yield from families.values()

    def _workers(self) -> Iterator[Metric]:
        """The workers of the channel; nothing where the engine is in this process."""
        workers = self._gateway.channel.workers()
        if not workers:
            return
        states = GaugeMetricFamily(
            "packhorse_channel_workers", "Workers by how this gateway sees them.", labels=("state",)
        )
        for state, count in Counter(worker.state for worker in workers).items():
            states.add_metric([state], count)
        yield states
        for name, text in {
            "outstanding": "Batches of this gateway that a worker has.",
            "credits": "Batches that a worker lets this gateway have under way.",
        }.items():
            family = GaugeMetricFamily(f"packhorse_channel_{name}", text, labels=("worker",))
            for worker in workers:
                family.add_metric([worker.worker], getattr(worker, name))
            yield family
        for name, value in self._gateway.channel.counters().items():
            counter = CounterMetricFamily(f"packhorse_channel_{name}", COUNTERS[name])
            counter.add_metric([], value)
            yield counter


def _own(models: list[ModelStatistics]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "packhorse_requests", "Answered requests by outcome.", labels=(*LABELS, "outcome")
    )
    rows = CounterMetricFamily("packhorse_rows", "Rows that were run.", labels=LABELS)
    batches = CounterMetricFamily("packhorse_batches", "Batches that were run.", labels=LABELS)
    queued = CounterMetricFamily(
        "packhorse_queue_seconds", "Time that requests waited for a worker.", labels=LABELS
    )
    latency = HistogramMetricFamily(
        "packhorse_request_seconds", "Time from request to answer.", labels=LABELS
    )
    for model in models:
        labels = [model.name, model.version]
        requests.add_metric([*labels, "success"], model.success.count)
        for reason, failed in sorted(model.failures.items()):
            requests.add_metric([*labels, reason.lower()], failed.count)
        rows.add_metric(labels, model.inferences)
        batches.add_metric(labels, model.executions)
        queued.add_metric(labels, model.queue.ns / 1e9)
        latency.add_metric(labels, _buckets(model), model.success.ns / 1e9)
    yield from (requests, rows, batches, queued, latency)


def _buckets(model: ModelStatistics) -> list[tuple[str, float]]:
    cumulative = 0
    buckets = []
    for bound, count in zip((*LATENCY_BOUNDS_S, "+Inf"), model.latency, strict=True):
        cumulative += count
        buckets.append((str(bound), float(cumulative)))
    return buckets

"""Counts and durations per model version, as the statistics extension of the protocol tells them.

Plain integers, added to on the event loop's thread; the metrics page reads the same numbers.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

LATENCY_BOUNDS_S = tuple(base * 10**exponent for exponent in range(-4, 2) for base in (1, 2.5, 5))
"""Upper bounds of the buckets of the latency histogram, in seconds."""

MAX_BATCH_SIZES = 1024
"""Most batch sizes told apart: a single request's row count is the client's choice."""


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in total."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count `count` events that took `ns` nanoseconds together."""
        self.count += count
        self.ns += ns

    def json(self) -> dict[str, int]:
        """As the protocol writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class ModelStatistics:
    """Everything counted for one model version; survives reloads.

    `inferences` counts rows, `executions` batches: their ratio is the mean batch size.
    """

    name: str
    version: str
    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    failures: dict[str, Duration] = field(default_factory=dict)
    batches: dict[int, Duration] = field(default_factory=dict)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))

    def executed(self, rows: int, requests: int, run_ns: int) -> None:
        """Count one finished batch of `rows` rows out of `requests` requests.

        Each request waited for the whole run, so each adds its full time to `compute_infer`.
        """
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inferences += rows
        self.executions += 1
        self.compute_infer.add(run_ns * requests, requests)
        if rows in self.batches or len(self.batches) < MAX_BATCH_SIZES:
            self.batches.setdefault(rows, Duration()).add(run_ns)

    def succeeded(self, total_ns: int, queue_ns: int, input_ns: int, output_ns: int) -> None:
        """Count one answered request."""
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.compute_input.add(input_ns)
        self.compute_output.add(output_ns)
        self.latency[bisect_left(LATENCY_BOUNDS_S, total_ns / 1e9)] += 1

    def failed(self, reason: str, total_ns: int) -> None:
        """Count one refused, cancelled or failed request; `reason` as in `nv_inference_*`."""
        self.failures.setdefault(reason, Duration()).add(total_ns)

    def json(self, memory_bytes: int) -> dict[str, Any]:
        """As the statistics extension writes it."""
        fail = Duration(
            sum(reason.count for reason in self.failures.values()),
            sum(reason.ns for reason in self.failures.values()),
        )
        nothing = Duration().json()
        return {
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.json(),
                "fail": fail.json(),
                "queue": self.queue.json(),
                "compute_input": self.compute_input.json(),
                "compute_infer": self.compute_infer.json(),
                "compute_output": self.compute_output.json(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": nothing,
                    "compute_infer": duration.json(),
                    "compute_output": nothing,
                }
                for rows, duration in sorted(self.batches.items())
            ],
            "memory_usage": [{"type": "CPU", "id": 0, "byte_size": memory_bytes}]
            if memory_bytes
            else [],
            "response_stats": {},
        }


class Statistics:
    """The statistics of every model version that has ever served."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], ModelStatistics] = {}

    def of(self, name: str, version: str) -> ModelStatistics:
        """Those of one model version, made at first use."""
        key = (name, version)
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = ModelStatistics(name, version)
        return found

    def all(self) -> list[ModelStatistics]:
        """All of them, by name and version."""
        return sorted(self._models.values(), key=lambda item: (item.name, int(item.version)))

"""What the Serve application asks of Serve and tells Ray's metrics, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

# Ray's own imports warn.
schema = pytest.importorskip("ray.serve.schema", reason="needs packhorse[fleet]")
application = pytest.importorskip("cluster.fleet.application")


@pytest.mark.parametrize(
    ("states", "complete"),
    [
        ({"RUNNING": 2}, True),
        ({"RUNNING": 2, "STARTING": 0}, True),
        ({"RUNNING": 1, "STARTING": 1}, False),
        ({"RUNNING": 1, "STOPPING": 1}, False),
        ({"RUNNING": 2, "PENDING_MIGRATION": 1}, False),
        ({}, True),
    ],
)
def test_serve_has_all_it_wants_when_nothing_starts_or_ends(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, int], complete: bool
) -> None:
    replica_states = {schema.ReplicaState(name): count for name, count in states.items()}
    deployment = SimpleNamespace(replica_states=replica_states, status="HEALTHY")
    found = SimpleNamespace(
        applications={"fleet": SimpleNamespace(deployments={application.WORKER: deployment})}
    )
    monkeypatch.setattr(application.serve, "status", lambda: found)
    assert application._complete("fleet") is complete


class Gauges:
    """Stands in for Ray's gauges; `values` by name and by the values of the tags."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[str, ...], float]] = {}

    def __call__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert name not in self.values, "a gauge is made once"
        assert description.startswith("Of a Packhorse fleet: ")
        values = self.values[name] = {}

        def set_value(value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == tag_keys
            values[tuple(tags.values())] = value

        return SimpleNamespace(set=set_value)


async def test_a_report_becomes_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges = Gauges()
    monkeypatch.setattr(application, "Gauge", gauges)
    report: dict[str, Any] = {
        "batches": 7,
        "failed_batches": 1,
        "busy_seconds": 2.5,
        "running": 1,
        "waiting": 3,
        "threads": 40,
        "strays": [{"id": 1}],
        "gateways": ["one", "two"],
        "started_s": 1.25,
        "local_pages": 0.75,
        "models": {"org/encoder/3": {"kernels_compiled": 2, "binds": 9}},
    }
    worker = SimpleNamespace(fleet="f", name="node/slot0", report=lambda: report)
    metrics = application._Metrics(worker, every_s=60)
    try:
        metrics._tell(report)
        metrics._tell(report | {"batches": 8, "local_pages": None})
    finally:
        metrics.close()
    own = ("f", "node/slot0")
    assert {name: values[own] for name, values in gauges.values.items() if own in values} == {
        "packhorse_worker_batches": 8,
        "packhorse_worker_failed_batches": 1,
        "packhorse_worker_busy_seconds": 2.5,
        "packhorse_worker_running": 1,
        "packhorse_worker_waiting": 3,
        "packhorse_worker_threads": 40,
        "packhorse_worker_stray_threads": 1,
        "packhorse_worker_gateways": 2,
        "packhorse_worker_start_seconds": 1.25,
        "packhorse_worker_local_pages_ratio": 0.75,
    }
    model = (*own, "org/encoder", "3")
    assert gauges.values["packhorse_worker_model_kernels_compiled"] == {model: 2}
    assert gauges.values["packhorse_worker_model_binds"] == {model: 9}

from __future__ import annotations

from api.statistics import LATENCY_BOUNDS_S, MAX_BATCH_SIZES, Statistics


def test_counts_and_durations():
    model = Statistics().of("m", "2")
    model.executed(rows=6, requests=3, run_ns=100)
    model.executed(rows=2, requests=1, run_ns=50)
    for _ in range(4):
        model.succeeded(total_ns=1000, queue_ns=10, input_ns=20, output_ns=30)
    model.failed("REJECTED", 5)
    model.failed("OTHER", 7)
    found = model.json(memory_bytes=99)
    assert (found["name"], found["version"]) == ("m", "2")
    assert (found["inference_count"], found["execution_count"]) == (8, 2)
    stats = found["inference_stats"]
    assert stats["success"] == {"count": 4, "ns": 4000}
    assert stats["fail"] == {"count": 2, "ns": 12}
    assert stats["queue"] == {"count": 4, "ns": 40}
    assert stats["compute_input"] == {"count": 4, "ns": 80}
    assert stats["compute_infer"] == {"count": 4, "ns": 350}, "a request waits for its whole batch"
    assert stats["compute_output"] == {"count": 4, "ns": 120}
    assert [(b["batch_size"], b["compute_infer"]) for b in found["batch_stats"]] == [
        (2, {"count": 1, "ns": 50}),
        (6, {"count": 1, "ns": 100}),
    ]
    assert found["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 99}]


def test_batch_sizes_told_apart_are_bounded():
    model = Statistics().of("m", "1")
    for rows in range(3 * MAX_BATCH_SIZES):
        model.executed(rows, 1, 1)
    assert len(model.batches) == MAX_BATCH_SIZES
    assert model.executions == 3 * MAX_BATCH_SIZES


def test_latency_buckets():
    model = Statistics().of("m", "1")
    for seconds in (0.0, 1e-4, 1.1e-4, 1e9):
        model.succeeded(round(seconds * 1e9), 0, 0, 0)
    assert model.latency[:2] == [2, 1]
    assert model.latency[-1] == 1
    assert list(LATENCY_BOUNDS_S) == sorted(LATENCY_BOUNDS_S)


def test_models_are_listed_by_name_and_numeric_version():
    statistics = Statistics()
    for name, version in (("b", "10"), ("b", "9"), ("a", "1")):
        assert statistics.of(name, version) is statistics.of(name, version)
    assert [(m.name, m.version) for m in statistics.all()] == [("a", "1"), ("b", "9"), ("b", "10")]

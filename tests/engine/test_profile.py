"""Profiles: every call with its arithmetic, traffic and share of memory."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import engine
from engine.profile import memory, profile, roofline, trace
from tests.engine.models import chain


def test_operations_traffic_and_memory() -> None:
    session = engine.load(chain(width=96, layers=3), threads=1)
    x = {"x": np.ones((50, 96), np.float32)}
    times = profile(session, x, rounds=2)
    products = [each for each in times if each.kernel == "dot"]
    assert len(products) == 3
    for each in products:
        assert each.operations == 2 * 50 * 96 * 96
        assert each.seconds > 0
        # Input, output and packed weights, at least.
        assert each.traffic >= 4 * (2 * 50 * 96 + 96 * 96)
    used = memory(session, x)
    assert used.weights >= 3 * 96 * 96 * 4
    # Buffers begin on cache lines, with a gap between them.
    assert 0 < used.arena <= used.unshared + 3 * 128
    assert used.unshared >= 2 * 50 * 96 * 4


def test_a_trace_holds_every_call_in_order() -> None:
    session = engine.load(chain(width=16, layers=4), threads=1)
    times = profile(session, {"x": np.ones((3, 16), np.float32)}, rounds=1)
    events = json.loads(json.dumps(trace(times)))["traceEvents"]
    assert [event["name"] for event in events] == [each.node for each in times]
    ends = [event["ts"] + event["dur"] for event in events]
    assert all(abs(a - b["ts"]) < 1e-6 for a, b in zip(ends, events[1:], strict=False))
    assert {event["ph"] for event in events} == {"X"}


def test_limits_are_plausible() -> None:
    session = engine.load(chain(width=16, layers=1), threads=1)
    limits = roofline(session)
    assert 1e9 < limits.flops < 1e12
    assert limits.memory_bytes > 1e8
    assert limits.seconds(int(limits.flops), 0) == pytest.approx(1.0)
    assert limits.seconds(0, 1 << 30) > limits.seconds(0, 1 << 20)


def test_calls_inside_a_loop_are_counted_and_added_up() -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N] x, int64 trips) => (float[N] y) {
  y = Loop(trips, , x) <body = b (int64 i, bool running, float[N] h) => (bool going, float[N] n) {
    going = Identity(running)
    n = Tanh(h)
  }>
}
"""
    session = engine.load(onnx.parser.parse_model(text).SerializeToString(), threads=1)
    for trips in (3, 0):
        times = profile(session, {"x": np.ones(8, np.float32), "trips": np.array(trips)}, rounds=2)
        found = {each.kernel: each.times for each in times if each.op != "Loop"}
        assert found == {"elementwise": trips}
        assert all(each.seconds >= 0 for each in times)
        trace(times)

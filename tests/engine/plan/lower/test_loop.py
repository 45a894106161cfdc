"""Loop, Scan and computed If as jumps of one native program, as onnxruntime computes them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine

Array = np.ndarray

COLLATZ = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x, float[4, 4] w, int64 trips, bool first) => (float[N, 4] y, float[N, 4] z) {
  y = Loop(trips, first, x) <body = b (int64 i, bool running, float[N, 4] h)
    => (bool going, float[N, 4] next) {
      count = Cast<to = 1>(i)
      product = MatMul(h, w)
      sum = Add(product, count)
      bent = Tanh(sum)
      total = ReduceSum<keepdims = 0>(bent)
      zero = Constant<value = float {0.0}>()
      positive = Greater(total, zero)
      next = If(positive) <
        then_branch = t () => (float[N, 4] a) {
          three = Constant<value = int64 {3}>()
          a = Loop(three, , bent) <body = c (int64 j, bool r, float[N, 4] v)
            => (bool s, float[N, 4] u) {
              s = Identity(r)
              odd = Constant<value = int64 {1}>()
              is_odd = Equal(j, odd)
              u = If(is_odd) <
                then_branch = k () => (float[N, 4] m) { m = Mul(v, bent) },
                else_branch = l () => (float[N, 4] n) { n = Sub(v, w0) }
              >
          }>
        },
        else_branch = e () => (float[N, 4] d) { d = Neg(bent) }
      >
      limit = Constant<value = float {-6.0}>()
      going = Greater(total, limit)
  }>
  row = Constant<value = int64 {0}>()
  z = Relu(y)
  w0 = Gather(w, row)
}
"""

STACKED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[T, N, 3] x, float[N, 3] h)
  => (float[N, 3] last, float[T, N, 3] y, float[T] s, int64[T] k) {
  shape = Shape(x)
  axis = Constant<value = int64 {0}>()
  trips = Gather(shape, axis)
  true = Constant<value = bool {1}>()
  last, y, s, k = Loop(trips, true, h) <body = b (int64 i, bool running, float[N, 3] before)
    => (bool going, float[N, 3] after, float[N, 3] row, float sum, int64 number) {
      element = Gather(x, i)
      joined = Add(element, before)
      after = Tanh(joined)
      row = Sub(after, before)
      sum = ReduceSum<keepdims = 0>(row)
      number = Mul(i, i)
      going = Identity(running)
  }>
}
"""

SWAPPED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N] a, float[N] b, int64 trips, bool f)
  => (float[N] p, float[N] q, float[K, N] r, bool h) {
  true = Constant<value = bool {1}>()
  p, q, h, r = Loop(trips, true, a, b, f) <body = c
    (int64 i, bool run, float[N] u, float[N] v, bool t)
    => (bool going, float[N] v, float[N] u, bool n, float[N] u) {
      going = Identity(run)
      n = Not(t)
  }>
}
"""

SCANS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, T, 2] x, float[T, N] z, float[N] h)
  => (float[N] last, float[N, T, 2] y, float[N, T] s) {
  last, y, s = Scan<num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
    scan_output_axes = [1, 1], scan_output_directions = [0, 1], body = b
    (float[N] before, float[N, 2] e, float[N] f)
    => (float[N] after, float[N, 2] row, float[N] sum) {
      axes = Constant<value = int64[1] {1}>()
      both = ReduceSum<keepdims = 0>(e, axes)
      most = Add(both, f)
      after = Add(most, before)
      wide = Unsqueeze(after, axes)
      row = Mul(wide, e)
      sum = Sub(after, f)
  }>(h, x, z)
}
"""


@cache
def pair(text: str, threads: int) -> tuple[engine.Session, onnxruntime.InferenceSession]:
    model = onnx.parser.parse_model(text).SerializeToString()
    return engine.load(model, threads=threads), onnxruntime.InferenceSession(model)


def check(text: str, threads: int, **feeds: Array) -> None:
    session, oracle = pair(text, threads)
    assert session.stats()["fallback_segments"] == 0
    wanted = oracle.run(None, feeds)
    found = session.run(feeds)
    for output, array in zip(session.outputs, wanted, strict=True):
        if array.size or found[output.name].size:
            # Of a loop without iterations onnxruntime stacks rows of 0 for every named size.
            assert found[output.name].shape == array.shape
        np.testing.assert_allclose(
            found[output.name].reshape(array.shape), array, rtol=1e-4, atol=1e-5
        )


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


sizes = st.sampled_from([0, 1, 2, 5, 33, 600])
many = settings(deadline=None, max_examples=25)


@pytest.mark.parametrize("threads", [1, 2, 3])
@given(n=sizes, trips=st.integers(-1, 9), first=st.booleans(), seed=st.integers(0, 99))
@many
def test_loops_and_branches_inside_each_other(
    threads: int, n: int, trips: int, first: bool, seed: int
) -> None:
    w = floats(4, 4, seed=seed) / 4
    feeds = {"x": floats(n, 4, seed=seed), "w": w, "trips": np.array(trips)}
    check(COLLATZ, threads, first=np.array(first), **feeds)


def test_a_loop_is_part_of_one_program() -> None:
    for text in (COLLATZ, STACKED, SCANS):
        session, _ = pair(text, 2)
        assert session.stats()["native_segments"] == 1


@pytest.mark.parametrize("threads", [1, 2])
@given(t=sizes, n=sizes)
@many
def test_rows_are_stacked(threads: int, t: int, n: int) -> None:
    check(STACKED, threads, x=floats(t, n, 3), h=floats(n, 3, seed=1))


@given(trips=st.integers(-2, 5), n=st.sampled_from([0, 1, 7, 5000]), flag=st.booleans())
@many
def test_carried_values_that_change_places(trips: int, n: int, flag: bool) -> None:
    a, b = floats(n), floats(n, seed=1)
    check(SWAPPED, 2, a=a, b=b, trips=np.array(trips), f=np.array(flag))


@given(t=sizes.filter(bool), n=sizes.filter(bool))
@many
def test_scans_in_all_directions(t: int, n: int) -> None:
    check(SCANS, 2, x=floats(n, t, 2), z=floats(t, n, seed=1), h=floats(n, seed=2))


def test_the_same_bytes_on_any_number_of_threads() -> None:
    feeds = {"x": floats(40, 600, 3), "h": floats(600, 3, seed=1)}
    results = [pair(STACKED, threads)[0].run(feeds) for threads in (1, 2, 3, 5)]
    for name in ("last", "y", "s", "k"):
        assert len({result[name].tobytes() for result in results}) == 1


def test_a_new_shape_or_number_of_iterations_compiles_nothing() -> None:
    session, _ = pair(COLLATZ, 2)
    w, true = floats(4, 4) / 4, np.array(True)
    session.run({"x": floats(3, 4), "w": w, "trips": np.array(3), "first": true})
    before = session.stats()["kernels_compiled"]
    binds = session.stats()["binds"]
    for trips in range(50):
        session.run({"x": floats(3, 4), "w": w, "trips": np.array(trips), "first": true})
    assert session.stats()["kernels_compiled"] == before
    assert session.stats()["binds"] == binds


GROWING = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x, int64 trips, float[3, 3] w) => (float[M, 3] y) {
  y = Loop(trips, , x) <body = b (int64 i, bool running, float[K, 3] h)
    => (bool going, float[L, 3] longer) {
      going = Identity(running)
      first = Constant<value = int64[1] {0}>()
      row = Gather(h, first)
      product = MatMul(row, w)
      longer = Concat<axis = 0>(h, product)
  }>
}
"""


def test_a_body_whose_shapes_change_is_prepared_once() -> None:
    session, oracle = pair(GROWING, 1)
    explained = session.explain()
    (loop,) = [operation for operation in explained.operations if operation.op == "Loop"]
    assert "changes its shape from iteration to iteration" in loop.reason
    counters = ("kernels_compiled", "packs_total", "binds")
    before: dict[str, float] = {}
    for trips in (12, 12, 5, 0):
        feeds = {"x": floats(2, 3), "trips": np.array(trips), "w": floats(3, 3, seed=1)}
        (wanted,) = oracle.run(None, feeds)
        np.testing.assert_allclose(session.run(feeds)["y"], wanted, rtol=1e-4, atol=1e-4)
        now = {name: session.stats()[name] for name in counters}
        # Every number of rows is bound once, whatever loop it comes up in.
        assert not before or now == before
        before = now


def test_threads_jump_together() -> None:
    """Operations worth sharing and small ones, in loops and branches, on more threads than CPUs."""
    n = 40_000
    for trips, seed in ((0, 0), (1, 1), (9, 2), (9, 3)):
        feeds = {
            "x": floats(n, 4, seed=seed) - np.float32(seed / 50),
            "w": floats(4, 4, seed=seed) / 4,
            "trips": np.array(trips),
            "first": np.array(True),
        }
        alone = pair(COLLATZ, 1)[0].run(feeds)
        for threads in (2, 3, 5):
            session = pair(COLLATZ, threads)[0]
            runner = session._state.executor.single
            assert runner is not None
            _, sizes = session._state.arguments.accept(feeds)
            assert not runner.bind(sizes).bound.inline
            for _ in range(5):
                found = session.run(feeds)
                assert all(found[name].tobytes() == alone[name].tobytes() for name in alone)
    check(STACKED, 3, x=floats(12, 30_000, 3), h=floats(30_000, 3, seed=1))

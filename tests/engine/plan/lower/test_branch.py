"""If whose condition follows from sizes or small inputs: one program, as onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import engine
from engine import InputError

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[N, M] x, int64 rate) => (float[P, Q] y) {
  limit = Constant<value = int64 {8}>()
  two = Constant<value = int64[2] {1, 2}>()
  fast = Greater(rate, limit)
  y = If(fast) <
    then_branch = a () => (float[P, Q] t) {
      last = Constant<value = int64 {1}>()
      shape = Shape(x)
      columns = Gather(shape, last)
      wide = Greater(columns, limit)
      t = If(wide) <
        then_branch = b () => (float[P, Q] u) { u = Tile(x, two) },
        else_branch = c () => (float[P, Q] v) { v = Exp(x) }
      >
    },
    else_branch = d () => (float[P, Q] e) { s = Transpose<perm = [1, 0]>(x) e = Neg(s) }
  >
}
"""

RANKS = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[N, C, T] x, float[C, 3] w) => (float[N, 3] y) {
  axis = Constant<value = int64 {2}>()
  axes = Constant<value = int64[1] {2}>()
  one = Constant<value = int64 {1}>()
  shape = Shape(x)
  length = Gather(shape, axis)
  single = Equal(length, one)
  r = Relu(x)
  z = If(single) <
    then_branch = a () => (t) { t = Squeeze(r, axes) },
    else_branch = b () => (e) { e = Identity(r) }
  >
  y = Gemm(z, w)
}
"""


def test_both_branches_are_part_of_one_program() -> None:
    model = onnx.parser.parse_model(MODEL).SerializeToString()
    session = engine.load(model, threads=2)
    assert session.stats()["native_segments"] == 1
    assert session.stats()["fallback_segments"] == 0
    oracle = onnxruntime.InferenceSession(model)
    rng = np.random.default_rng(0)
    for shape, rate in (((3, 9), 16), ((3, 5), 16), ((3, 5), -4), ((0, 5), 8), ((2, 20), 9)):
        feeds = {"x": rng.standard_normal(shape).astype(np.float32), "rate": np.array(rate)}
        (wanted,) = oracle.run(None, feeds)
        found = session.run(feeds)["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_a_bound_call_follows_the_numbers_of_its_inputs() -> None:
    session = engine.load(onnx.parser.parse_model(MODEL).SerializeToString(), threads=1)
    x, rate = np.ones((3, 3), np.float32), np.array(16)
    call = session.bind({"x": x, "rate": rate})
    np.testing.assert_allclose(call()["y"], np.exp(x), rtol=1e-5)
    rate[...] = 2
    np.testing.assert_allclose(call()["y"], -x)


def test_the_branch_whose_rank_does_not_fit_is_ruled_out() -> None:
    model = onnx.parser.parse_model(RANKS).SerializeToString()
    session = engine.load(model, threads=1)
    assert session.stats()["fallback_segments"] == 0
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((4, 5, 1), (5, 3)))
    found = session.run({"x": x, "w": w})["y"]
    np.testing.assert_allclose(found, np.maximum(x[..., 0], 0) @ w, rtol=0, atol=1e-5)
    with pytest.raises(InputError):
        session.run({"x": np.zeros((4, 5, 2), np.float32), "w": w})

"""Inference through branches, loops and scans."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import ModelError
from engine.graph.inference import infer
from engine.graph.ir import subgraphs
from tests.engine.graph.inference.support import (
    assert_equals_run,
    graph_of,
    run,
    shape_text,
)

BRANCHES = """
g (float[N, 4] x, bool c) => (y, z) {
  y, z = If (c) <
    then_branch = t () => (a, d) { a = Relu(x) d = Transpose(x) },
    else_branch = e () => (b, f) { b = Concat<axis=0>(x, x) f = NonZero(b) }
  >
}
"""


def test_branches_are_merged() -> None:
    graph, _ = graph_of(BRANCHES.replace("f = NonZero(b)", "f = Neg(b)"))
    infer(graph)
    assert shape_text(graph.outputs[0]) == ["y_dim_0", "4"]
    assert shape_text(graph.outputs[1]) == ["z_dim_0", "z_dim_1"]
    with pytest.raises(ModelError, match=r"has types"):
        infer(graph_of(BRANCHES)[0])


def test_a_branch_that_cannot_run_is_no_error() -> None:
    graph, _ = graph_of(
        "g (float[N, 4] x, bool c) => (y) { i = Constant<value=int64[1] {1}>() y = If (c) < "
        "then_branch = t () => (a) { a = Squeeze(x, i) }, "
        "else_branch = e () => (b) { b = Identity(x) } > }"
    )
    guards = infer(graph)
    assert graph.outputs[0].shape is None
    assert [(str(g.left), str(g.right)) for g in guards] == [("4", "1")]
    assert guards[0].subgraph is subgraphs(graph.nodes[-1])[0]


LOOP = """
g (float[N, 4] x, int64 n) => (last, stacked) {{
  t = Constant<value=bool {{1}}>()
  last, stacked = Loop (n, t, x) <
    body = b (int64 i, bool c, float[r, s] v) => (k, w, o) {{
      k = Identity(c)
      w = {step}
      o = ReduceSum<keepdims=0>(v)
    }}
  >
}}
"""


@pytest.mark.parametrize(
    ("step", "expected"),
    [("Relu(v)", ["N", "4"]), ("Concat<axis=0>(v, x)", ["last_dim_0", "4"])],
)
def test_loops(step: str, expected: list[str]) -> None:
    graph, content = graph_of(LOOP.format(step=step))
    infer(graph)
    assert shape_text(graph.outputs[0]) == expected
    assert shape_text(graph.outputs[1]) == ["stacked_dim_0"]
    last, stacked = run(content, {"x": np.ones((2, 4), np.float32), "n": np.array(3)})
    assert last.ndim == 2
    assert stacked.shape == (3,)


def test_scan() -> None:
    graph, content = graph_of(
        "g (float[H] s, float[H, T] x) => (f, y) { f, y = Scan<num_scan_inputs=1, "
        "scan_input_axes=[1], scan_output_axes=[1], body = b (float[h] a, float[h] v) => (n, o) "
        "{ n = Add(a, v) o = Concat<axis=0>(n, v) }>(s, x) }"
    )
    infer(graph)
    assert shape_text(graph.outputs[0]) == ["H"]
    assert shape_text(graph.outputs[1]) == ["2*H", "T"]
    assert_equals_run(graph, content, {"H": 3, "T": 5})

"""Recurrent layers out of loops, scans and chains of cells, compared with onnxruntime."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import engine

Array = np.ndarray
WIDTH, HIDDEN = 5, 24

LSTM_STEP = """
      joined = Concat<axis = 1>(e, h)
      product = MatMul(joined, K)
      sum = Add(product, b4)
      i, g, f, o = Split<axis = 1, num_outputs = 4>(sum)
      one = Constant<value = float {1.0}>()
      f1 = Add(f, one)
      sf = Sigmoid(f1)
      si = Sigmoid(i)
      so = Sigmoid(o)
      tg = Tanh(g)
      kept = Mul(c, sf)
      added = Mul(si, tg)
      c1 = Add(kept, added)
      tc = Tanh(c1)
      h1 = Mul(tc, so)
"""

GRU_STEP = """
      xz = Gemm<transB = 1>(e, Wz, bz)
      hz = Gemm<transB = 1>(h, Rz, bz)
      az = Add(xz, hz)
      z = Sigmoid(az)
      xr = Gemm<transB = 1>(e, Wr, bz)
      hr = MatMul(h, Rr)
      ar = Add(hr, xr)
      r = Sigmoid(ar)
      hn = Gemm<transB = 1>(h, Rn, bn)
      gated = Mul(r, hn)
      xn = Gemm<transB = 1>(e, Wn, bz)
      an = Add(xn, gated)
      n = Tanh(an)
      one = Constant<value = float {1.0}>()
      rest = Sub(one, z)
      new = Mul(rest, n)
      old = Mul(z, h)
      h1 = Add(new, old)
"""

OLD_GRU_STEP = """
      xz = MatMul(e, WzT)
      hz = MatMul(h, Rr)
      az = Add(xz, hz)
      z = Sigmoid(az)
      xr = MatMul(e, WrT)
      hr = MatMul(h, Rn)
      ar = Add(xr, hr)
      r = Sigmoid(ar)
      gated = Mul(h, r)
      hn = MatMul(gated, Rr)
      xn = Gemm<transB = 1>(e, Wn, bn)
      an = Add(xn, hn)
      n = Tanh(an)
      apart = Sub(h, n)
      part = Mul(z, apart)
      h1 = Add(n, part)
"""

RNN_STEP = """
      xa = MatMul(e, WzT)
      ha = Gemm(h, Rr, bn)
      a = Add(ha, xa)
      h1 = Tanh(a)
"""

LOOP = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[T, N, 5] x, float[N, 24] h0, float[N, 24] c0)
  => (float[T, N, 24] y, float[N, 24] hn, float[N, 24] cn) {{
  shape = Shape(x)
  zero = Constant<value = int64 {{0}}>()
  trips = Gather(shape, zero)
  true = Constant<value = bool {{1}}>()
  {outputs} = Loop(trips, true, {initial}) <body = b
    (int64 k, bool running, {formal}) => (bool going, {final}, float[N, 24] h1) {{
      going = Identity(running)
      e = Gather(x, {index})
      {step}
  }}>
  {rest}
}}
"""


SCAN = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[{axes}, 5] x, float[N, 24] h0, float[N, 24] c0)
  => (float[{axes}, 24] y, float[N, 24] hn, float[N, 24] cn) {{
  {outputs} = Scan<num_scan_inputs = 1, {attributes}, body = b
    ({formal}, float[N, 5] e) => ({final}, float[N, 24] shown) {{
      {step}
      shown = Identity(h1)
  }}>({initial}, x)
  {rest}
}}
"""


def weights() -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)

    def make(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)

    square, wide = (HIDDEN, HIDDEN), (HIDDEN, WIDTH)
    return [
        make("K", WIDTH + HIDDEN, 4 * HIDDEN),
        make("b4", 4 * HIDDEN),
        *(make(name, *square) for name in ("Rz", "Rr", "Rn")),
        *(make(name, *wide) for name in ("Wz", "Wr", "Wn")),
        *(make(name, WIDTH, HIDDEN) for name in ("WzT", "WrT")),
        make("bz", HIDDEN),
        make("bn", HIDDEN),
    ]


def loop(step: str, memory: bool, backwards: bool = False) -> str:
    index = "k"
    before = ""
    if backwards:
        before, index = "last = Sub(trips, ones)\n      from_end = Sub(last, k)\n", "from_end"
        before = "ones = Constant<value = int64 {1}>()\n      " + before
    text = LOOP.format(
        outputs="hn, cn, y" if memory else "hn, y",
        initial="h0, c0" if memory else "h0",
        formal="float[N, 24] h, float[N, 24] c" if memory else "float[N, 24] h",
        final="float[N, 24] h1, float[N, 24] c1" if memory else "float[N, 24] h1",
        index=index,
        step=step,
        rest="" if memory else "cn = Identity(c0)",
    )
    return text.replace("      e = Gather", f"      {before}      e = Gather")


def scan(step: str, memory: bool, backwards: bool = False, axis: int = 0) -> str:
    turned = int(backwards)
    directions = f"scan_input_directions = [{turned}], scan_output_directions = [{turned}]"
    return SCAN.format(
        axes="N, T" if axis else "T, N",
        attributes=f"{directions}, scan_input_axes = [{axis}], scan_output_axes = [{axis}]",
        outputs="hn, cn, y" if memory else "hn, y",
        initial="h0, c0" if memory else "h0",
        formal="float[N, 24] h, float[N, 24] c" if memory else "float[N, 24] h",
        final="float[N, 24] h1, float[N, 24] c1" if memory else "float[N, 24] h1",
        step=step,
        rest="" if memory else "cn = Identity(c0)",
    )


def chain(step: str, memory: bool, count: int = 4) -> str:
    lines = []
    names = [line.split("=")[0].strip() for line in step.strip().splitlines()]
    local = {name.strip() for group in names for name in group.split(",")}
    h, c = "h0", "c0"
    for number in range(count):
        lines.append(f"at{number} = Constant<value = int64 {{{number}}}>()")
        lines.append(f"e{number} = Gather(x, at{number})")
        for line in step.strip().splitlines():
            renamed = line
            for name in sorted(local, key=len, reverse=True):
                renamed = _rename(renamed, name, f"{name}_{number}")
            renamed = _rename(_rename(renamed, "e", f"e{number}"), "h", h)
            lines.append(_rename(renamed, "c", c))
        h, c = f"h1_{number}", f"c1_{number}" if memory else "c0"
    rows = ", ".join(f"w{number}" for number in range(count))
    lines.append("front = Constant<value = int64[1] {0}>()")
    lines += [f"w{number} = Unsqueeze(h1_{number}, front)" for number in range(count)]
    lines += [f"y = Concat<axis = 0>({rows})", f"hn = Identity({h})", f"cn = Identity({c})"]
    body = "\n  ".join(lines)
    return f"""
<ir_version: 8, opset_import: ["" : 18]>
g (float[4, N, 5] x, float[N, 24] h0, float[N, 24] c0)
  => (float[4, N, 24] y, float[N, 24] hn, float[N, 24] cn) {{
  {body}
}}
"""


def _rename(line: str, name: str, to: str) -> str:
    import re

    return re.sub(rf"(?<![\w.]){name}(?![\w.<])(?!\()", to, line)


@cache
def pair(text: str) -> tuple[engine.Session, onnxruntime.InferenceSession]:
    model = onnx.parser.parse_model(text)
    used = {name for node in _nodes(model.graph) for name in node.input}
    model.graph.initializer.extend(each for each in weights() if each.name in used)
    data = model.SerializeToString()
    return engine.load(data, threads=2), onnxruntime.InferenceSession(data)


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for each in inner for node in _nodes(each))]


def check(text: str, op: str, steps: int, rows: int, axis: int = 0) -> None:
    session, oracle = pair(text)
    assert [o.op for o in session.explain().operations if o.op in ("LSTM", "GRU", "RNN")] == [op]
    assert not any(o.op == "Loop" for o in session.explain().operations)
    rng = np.random.default_rng(steps)
    feeds = {
        "x": rng.standard_normal((rows, steps, WIDTH) if axis else (steps, rows, WIDTH)).astype(
            np.float32
        ),
        "h0": rng.standard_normal((rows, HIDDEN)).astype(np.float32),
        "c0": rng.standard_normal((rows, HIDDEN)).astype(np.float32),
    }
    found = session.run(feeds)
    for output, wanted in zip(session.outputs, oracle.run(None, feeds), strict=True):
        if steps:
            assert found[output.name].shape == wanted.shape
        np.testing.assert_allclose(
            found[output.name].reshape(wanted.shape), wanted, rtol=1e-4, atol=2e-5
        )


CELLS = [
    (LSTM_STEP, "LSTM", True),
    (GRU_STEP, "GRU", False),
    (OLD_GRU_STEP, "GRU", False),
    (RNN_STEP, "RNN", False),
]


@pytest.mark.parametrize(("step", "op", "memory"), CELLS)
def test_loops_over_cells_are_layers(step: str, op: str, memory: bool) -> None:
    for steps, rows in ((1, 1), (7, 3), (0, 2), (20, 33)):
        check(loop(step, memory), op, steps, rows)


def test_what_is_read_from_its_end_is_a_layer_backwards() -> None:
    for steps, rows in ((1, 1), (7, 3), (0, 2)):
        check(loop(LSTM_STEP, True, backwards=True), "LSTM", steps, rows)


@pytest.mark.parametrize(("step", "op", "memory"), CELLS)
def test_scans_over_cells_are_layers(step: str, op: str, memory: bool) -> None:
    for steps, rows in ((1, 1), (7, 3)):
        check(scan(step, memory), op, steps, rows)


@pytest.mark.parametrize(("backwards", "axis"), [(True, 0), (False, 1), (True, 1)])
def test_scans_in_both_directions_and_along_both_axes(backwards: bool, axis: int) -> None:
    for steps, rows in ((1, 2), (6, 3)):
        check(scan(LSTM_STEP, True, backwards, axis), "LSTM", steps, rows, axis)


@pytest.mark.parametrize(("step", "op", "memory"), CELLS[:3])
def test_cells_one_after_the_other_are_a_layer(step: str, op: str, memory: bool) -> None:
    check(chain(step, memory), op, 4, 3)
    check(chain(step, memory), op, 4, 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("tc = Tanh(c1)", "tc = Softsign(c1)", "no recurrent cell that is known"),
        ("joined = Concat<axis = 1>(e, h)", "ee = Tanh(e) joined = Concat<axis = 1>(ee, h)",
         "is not an element of a tensor"),
        ("e = Gather(x, k)", "kk = Mul(k, k) e = Gather(x, kk)", "is not read in order"),
        ("going = Identity(running)", "s = ReduceSum<keepdims = 0>(h) z0 = Sub(s, s) "
         "going = Less(s, z0)", "a condition may end it early"),
    ],
)  # fmt: skip
def test_what_nearly_is_a_layer_stays_a_loop(old: str, new: str, reason: str) -> None:
    text = loop(LSTM_STEP, True)
    assert old in text
    session, oracle = pair(text.replace(old, new))
    notes = [note for each in session.explain().passes for note in each.reasons]
    assert any(reason in note for note in notes), notes
    rng = np.random.default_rng(1)
    shapes = {"x": (2, 3, WIDTH), "h0": (3, HIDDEN), "c0": (3, HIDDEN)}
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    found = session.run(feeds)
    for output, wanted in zip(session.outputs, oracle.run(None, feeds), strict=True):
        np.testing.assert_allclose(found[output.name], wanted, rtol=1e-4, atol=2e-5)


def test_cells_that_read_what_the_one_before_gave_stay_apart() -> None:
    text = chain(LSTM_STEP, True).replace("e1 = Gather(x, at1)", "e1 = Gemm(h1_0, KK)")
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    extra = numpy_helper.from_array(rng.normal(0, 0.3, (24, 5)).astype(np.float32), "KK")
    model.graph.initializer.extend([*(w for w in weights() if w.name in ("K", "b4")), extra])
    data = model.SerializeToString()
    session = engine.load(data, threads=1)
    shapes = {"x": (4, 2, WIDTH), "h0": (2, HIDDEN), "c0": (2, HIDDEN)}
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    found = session.run(feeds)
    wanted = onnxruntime.InferenceSession(data).run(None, feeds)
    for output, array in zip(session.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[output.name], array, rtol=1e-4, atol=2e-5)

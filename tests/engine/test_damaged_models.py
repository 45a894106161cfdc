"""What damaged models showed: errors that name the node, where there were others before.

Found by ``python -m benchmarks.fuzz`` and made small by hand, in the text form of the onnx package.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

import engine
from engine.runtime import control_flow
from tests.engine.equality import assert_equal

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def model(text: str) -> bytes:
    content: bytes = onnx.parser.parse_model(HEAD + text).SerializeToString()
    return content


def load_and_run(content: bytes) -> None:
    session = engine.load(content, threads=1)
    session.run(
        {spec.name: np.zeros((2,) * len(spec.shape), spec.dtype) for spec in session.inputs}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m (float x) => (float y) { y = Trilu (x) }", r"node 'y' \(Trilu\)"),
        (
            "m (float[2,2] x, int64[2,2] i) => (float[2,2] y)"
            "{ y = GatherElements <axis = -65535> (x, i) }",
            r"node 'y' \(GatherElements\)",
        ),
        (
            "m (float[1,3,28,28] x) => (float[1,3,30,30] y)"
            "{ y = MaxPool <kernel_shape = [3, 4611686018427387904], pads = [2, 2, 2, 2]> (x) }",
            "node 'y': operator packhorse.MaxPool",
        ),
        (
            "m (float[3,4,4611686018427387904] x) => (float[3,4,1] y) { y = ReduceMax <keepdims=1>"
            " (x) }",
            "expected float32|64 bits",
        ),
        (
            "m (float[n,4611686018427387904] x) => (float[n] y)"
            "{ a = Softmax (x)  b = Sub (x, a)  y = Identity (b) }",
            "64 bits",
        ),
    ],
)
def test_the_node_is_named(text: str, message: str) -> None:
    with pytest.raises(engine.EngineError, match=message):
        load_and_run(model(text))


def test_a_loop_without_a_body_is_refused() -> None:
    text = "m (int64 k, bool c, float[2] x) => (float[2] y) { y = Loop <body: int = 1> (k, c, x) }"
    with pytest.raises(engine.ModelError, match="Loop"):
        engine.load(model(text), threads=1)


def test_a_scan_over_nothing_fails_by_name() -> None:
    text = """m (float[3] x) => (float[3] y)
    { y = Scan <num_scan_inputs = 0, body = step (float[3] a) => (float[3] b) { b = Neg (a) }> (x) }
    """
    with pytest.raises(engine.EngineError, match=r"\(Scan\)"):
        engine.load(model(text), threads=1).run({"x": np.zeros(3, np.float32)})


def test_sizes_of_a_body_follow_from_those_outside() -> None:
    """Rows of a scan that are half as long as an outer axis: its size stays known inside."""
    text = """m (float[t, n] x) => (float[t, m] z, float[m] s)
    {
      minus = Constant <value_ints = [-1]> ()
      two = Constant <value_ints = [2]> ()
      shape = Shape (x)
      rows = Shape <start = 0, end = 1> (x)
      wide = Concat <axis = 0> (rows, two, minus)
      pairs = Reshape (x, wide)
      halves = ReduceSum <keepdims = 0> (pairs, one)
      zero = Constant <value_float = 0.0> ()
      first = Slice (halves, begin, one)
      start = Squeeze (first, begin)
      s, z = Scan <num_scan_inputs = 1,
        body = step (float[m] a, float[m] e) => (float[m] b, float[m] o)
      { b = Add (a, e)  t = Tanh (b)  o = Mul (t, e) }> (start, halves)
    }"""
    proto = onnx.parser.parse_model(HEAD + text)
    for name, value in (("one", [1]), ("begin", [0])):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    session = engine.load(proto.SerializeToString(), threads=1)
    found = session.run({"x": x})
    wanted = ReferenceEvaluator(proto).run(None, {"x": x})
    for name, expected in zip(("z", "s"), wanted, strict=True):
        assert_equal(found[name], expected)


def test_a_mode_without_a_function_is_an_error() -> None:
    node = onnx.helper.make_node(
        "LinearAttention",
        ["q", "k", "v"],
        ["y", "state"],
        kv_num_heads=4,
        q_num_heads=4,
        update_rule="",
    )
    names = ("q", "k", "v")
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 1, 32]) for n in names
    ]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in ("y", "state")]
    graph = onnx.helper.make_graph([node], "g", infos, results)
    imports = [onnx.helper.make_opsetid("", 27)]
    content = onnx.helper.make_model(graph, opset_imports=imports, ir_version=13)
    session = engine.load(content.SerializeToString(), threads=1)
    assert session.explain().fallback_count == 1
    with pytest.raises(engine.RunError, match="LinearAttention"):
        session.run({name: np.zeros((2, 1, 32), np.float32) for name in names})


TOO_LARGE = """
import resource
import numpy as np
import onnx
import engine
text = '<ir_version: 10, opset_import: ["" : 21]> m (int32 a, int32 b, int32 c) => (int32[n] y)'
model = onnx.parser.parse_model(text + "{ y = Range (a, b, c) }")
session = engine.load(model.SerializeToString(), threads=1)
feeds = {name: np.array(n, np.int32) for name, n in zip("abc", (-1, 2**31 - 1, 3))}
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
try:
    session.run(feeds)
except engine.InputError as error:
    print(error)
print(len(session.run(feeds | {"b": np.array(5, np.int32)})["y"]))
"""


def test_a_result_that_finds_no_memory_is_refused() -> None:
    """716 million numbers; the session goes on answering what fits."""
    done = subprocess.run([sys.executable, "-c", TOO_LARGE], capture_output=True, text=True)
    refusal, length = done.stdout.splitlines()
    assert "2.67 GiB" in refusal or "2.7 GiB" in refusal, refusal
    assert length == "2"


OUTPUTS = """
import asyncio
import resource
import numpy as np
import onnx
import engine
text = '<ir_version: 10, opset_import: ["" : 21]> m (float[n, 1] x) => (float[n, k] y)'
model = onnx.parser.parse_model(text + "{ y = Add (x, row) }")
row = np.zeros((1, 1 << 18), np.float32)
model.graph.initializer.append(onnx.numpy_helper.from_array(row, "row"))
content = model.SerializeToString()
sessions = [engine.load(content, threads=n) for n in (1, 2)]
sessions.append(engine.load(content, threads=2, throughput=True))
small, large = ({"x": np.zeros((n, 1), np.float32)} for n in (2, 4096))
for session in sessions:
    session.run(small)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for session in sessions:
    for way in (session.run, session.bind, lambda feed: asyncio.run(session.run_async(feed))):
        try:
            way(large)
        except engine.InputError as error:
            print(error)
    print(session.run(small)["y"].shape)
"""


def test_outputs_that_find_no_memory_are_refused_on_every_way() -> None:
    """Four GiB, on one thread, two, and rows of a batch apart."""
    done = subprocess.run([sys.executable, "-c", OUTPUTS], capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    for number, line in enumerate(lines):
        wanted = "(2, 262144)" if number % 4 == 3 else "m: no memory for the output"
        assert wanted in line


ENDLESS = """
m (int64 trips, bool going, seq(float[]) start) => (seq(float[]) y) {
  y = Loop (trips, going, start) <body = b (int64 i, bool c, seq(float[]) s)
    => (bool d, seq(float[]) t) {
      d = Identity (c)
      item = Cast <to = 1> (i)
      t = SequenceInsert (s, item)
    }>
}
"""


def test_a_loop_in_python_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    session = engine.load(model(ENDLESS), threads=1)
    monkeypatch.setattr(control_flow, "MOST_ITERATIONS", 100)
    feeds = {"trips": np.array(100), "going": np.array(True), "start": []}
    assert len(session.run(feeds)["y"]) == 100
    with pytest.raises(engine.EngineError, match=r"Loop.*does not end within 100 iterations"):
        session.run(feeds | {"trips": np.array(2**63 - 1)})


@pytest.mark.parametrize("policy", ["stretch", "not_larger"])
def test_scales_beyond_all_numbers_are_an_error(policy: str) -> None:
    given = "sizes" if policy == "not_larger" else "scales"
    text = f"""
    m (float[1, 1, 4, 127] x, {"int64" if policy == "not_larger" else "float"}[4] r) => (y) {{
      y = Resize <mode = "cubic", keep_aspect_ratio_policy = "{policy}">
        (x, {", , r" if policy == "not_larger" else ", r"})
    }}
    """
    session = engine.load(model(text), threads=1)
    x = np.zeros((1, 1, 4, 127), np.float32)
    wild = np.full(4, 2**62) if given == "sizes" else np.array([1, 1, 1, 3e38], np.float32)
    with pytest.raises(engine.EngineError, match=r"axis longer than|GiB|128 bits"):
        session.run({"x": x, "r": wild})

"""Sequences of different lengths in one run: the bytes that each gives alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import engine
from benchmarks.models import transformer
from benchmarks.models.graph import GraphBuilder
from benchmarks.models.layers import bidirectional, gemm
from engine.errors import InputError, RunError
from tests.engine.models import chain, serialise, tensor

Feed = dict[str, np.ndarray]

WORDS = 50


def pooled_encoder() -> onnx.ModelProto:
    """Two layers whose head splits are computed from shapes; all states, and the first one's."""
    b, x, penalty = transformer._embeddings("pooled_encoder", 64, 7)
    for _ in range(2):
        x = transformer._layer(b, x, penalty, 64, 4, traced=True)
    first = b.op("Gather", x, b.weight(np.array(0, np.int64), "index"), axis=1)
    b.output("hidden", x, ["batch", "length", 64])
    b.output("pooled", b.op("Tanh", gemm(b, first, (64, 64))), ["batch", 64])
    return b.model()


def recurrent(cell: str, layers: int = 2, hidden: int = 40) -> onnx.ModelProto:
    """Bidirectional layers over tokens; the mean, and every step's state."""
    b = GraphBuilder(cell.lower(), 3)
    tokens = b.input("tokens", ["batch", "length"], np.int64)
    table = b.weight(b.gaussian((WORDS, 24), 1.0), "embedding")
    x = b.op("Transpose", b.op("Gather", table, tokens), perm=[1, 0, 2])
    features = 24
    for _ in range(layers):
        x = bidirectional(b, cell, x, features, hidden, zero_state=cell == "LSTM")  # type: ignore[arg-type]
        features = 2 * hidden
    b.output("states", b.op("Transpose", x, perm=[1, 0, 2]), ["batch", "length", features])
    mean = b.op("ReduceMean", x, axes=[0], keepdims=0)
    b.output("logits", gemm(b, mean, (features, 5)), ["batch", 5])
    return b.model()


MODELS = {
    "narrow_encoder": transformer.narrow_encoder,
    "pooled_encoder": pooled_encoder,
    "lstm": lambda: recurrent("LSTM"),
    "gru": lambda: recurrent("GRU"),
}


@cache
def session(name: str, threads: int) -> engine.Session:
    return engine.load(MODELS[name]().SerializeToString(), threads=threads)


def feed(of: engine.Session, rows: int, length: int, seed: int) -> Feed:
    """Token ids, a mask that may end early, and whatever else the model takes."""
    rng = np.random.default_rng(seed)
    found: Feed = {}
    for spec in of.inputs:
        array = rng.integers(0, 2 if "type" in spec.name else WORDS, (rows, length))
        if "mask" in spec.name:
            array = np.arange(length) < rng.integers(1, max(length, 1) + 1, (rows, 1))
        found[spec.name] = array.astype(spec.dtype)
    return found


def check(of: engine.Session, feeds: list[Feed]) -> None:
    together = of.run_ragged(feeds)
    assert len(together) == len(feeds)
    for one, found in zip(feeds, together, strict=True):
        expected = of.run(one)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].shape == array.shape
            assert found[name].dtype == array.dtype
            assert found[name].tobytes() == array.tobytes(), name


LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_lengths_of_all_kinds(name: str, threads: int, lengths: list[int], data) -> None:
    of = session(name, threads)
    assert of.ragged, of.ragged_reason
    rows = data.draw(st.lists(st.integers(1, 3), min_size=len(lengths), max_size=len(lengths)))
    seeds = range(len(lengths))
    check(of, [feed(of, *sizes) for sizes in zip(rows, lengths, seeds, strict=True)])


@pytest.mark.parametrize("name", MODELS)
def test_equal_lengths_and_one_alone(name: str) -> None:
    of = session(name, 2)
    check(of, [feed(of, 1, 17, seed) for seed in range(5)])
    check(of, [feed(of, 1, 17, 0)])
    check(of, [feed(of, 4, 64, 0), feed(of, 0, 9, 0), feed(of, 1, 1, 0)])


@pytest.mark.parametrize("name", ["narrow_encoder", "lstm", "gru"])
def test_sequences_without_a_token(name: str) -> None:
    of = session(name, 2)
    check(of, [feed(of, 1, 5, 0), feed(of, 1, 0, 0), feed(of, 2, 3, 0)])
    check(of, [feed(of, 1, 0, 0), feed(of, 2, 0, 0)])


def test_some_outputs() -> None:
    of = session("pooled_encoder", 2)
    feeds = [feed(of, 1, length, length) for length in (5, 90, 33)]
    found = of.run_ragged(feeds, ["pooled"])
    assert [list(result) for result in found] == [["pooled"]] * 3
    assert found[1]["pooled"].tobytes() == of.run(feeds[1])["pooled"].tobytes()
    with pytest.raises(InputError, match="no output 'nothing'"):
        of.run_ragged(feeds, ["nothing"])
    assert of.run_ragged([]) == []


def test_runs_leave_no_memory_behind() -> None:
    of = session("narrow_encoder", 2)
    ragged = of._state.ragged
    assert ragged is not None
    before = of.stats()["bound_bytes"]
    rng = np.random.default_rng(4)
    for _ in range(100):
        of.run_ragged([feed(of, 1, int(n), 0) for n in rng.integers(1, 40, 6)])
    assert len(ragged._slots) <= 4
    assert of.stats()["bound_bytes"] == before


async def test_awaited() -> None:
    of = session("gru", 2)
    feeds = [feed(of, 1, length, length) for length in (50, 7)]
    found = await of.run_ragged_async(feeds)
    for one, result in zip(feeds, found, strict=True):
        assert result["states"].tobytes() == of.run(one)["states"].tobytes()


def test_a_bad_feed_is_numbered() -> None:
    of = session("narrow_encoder", 2)
    good, bad = feed(of, 1, 9, 0), feed(of, 1, 9, 1)
    bad["ids"] = bad["ids"].astype(np.float64)
    with pytest.raises(InputError, match=r"input 'ids' .* \(request 1 of 2\)"):
        of.run_ragged([good, bad])
    long = feed(of, 1, transformer.POSITIONS + 1, 0)
    with pytest.raises(InputError, match="request 0 of 1"):
        of.run_ragged([long])


def test_a_failing_kernel_names_its_node() -> None:
    of = session("lstm", 2)
    feeds = [feed(of, 1, length, length) for length in (9, 30)]
    feeds[1]["tokens"][0, 3] = WORDS
    with pytest.raises(RunError, match=r"node gather_0 \(Gather\)"):
        of.run_ragged(feeds)


def _cell(op: str, direction: str, given: bool, **attributes: int) -> bytes:
    """A layer over features with all of its outputs; with `given`, states to begin with, made of
    the first token."""
    features, hidden, gates = 6, 20, {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    directions = 2 if direction == "bidirectional" else 1
    rng = np.random.default_rng(11)
    weights = {
        "w": rng.standard_normal((directions, gates * hidden, features)),
        "r": rng.standard_normal((directions, gates * hidden, hidden)) * 0.3,
        "b": rng.standard_normal((directions, 2 * gates * hidden)),
        "start": rng.standard_normal((features, directions * hidden)),
    }
    nodes = [helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2])]
    inputs = ["turned", "w", "r", "b"]
    if given:
        integers = {"zero": np.array(0), "split": np.array([0, directions, hidden])}
        weights |= integers
        nodes += [
            helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
            helper.make_node("MatMul", ["first", "start"], ["states"]),
            helper.make_node("Reshape", ["states", "split"], ["parted"]),
            helper.make_node("Transpose", ["parted"], ["h0"], perm=[1, 0, 2]),
        ]
        inputs += ["", "h0", *(["h0"] if op == "LSTM" else [])]
    found = ["y", "yh", *(["yc"] if op == "LSTM" else [])]
    nodes.append(
        helper.make_node(op, inputs, found, hidden_size=hidden, direction=direction, **attributes)
    )
    nodes.append(helper.make_node("Transpose", ["y"], ["all"], perm=[2, 0, 1, 3]))
    for name in found[1:]:
        nodes.append(helper.make_node("Transpose", [name], [f"last {name}"], perm=[1, 0, 2]))
    return serialise(
        nodes,
        [tensor("x", ["n", "t", features])],
        ["all", *(f"last {name}" for name in found[1:])],
        {n: a if a.dtype == np.int64 else a.astype(np.float32) for n, a in weights.items()},
    )


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})],
)
def test_recurrent_layers(
    op: str, attributes: dict[str, int], direction: str, given: bool, threads: int
) -> None:
    of = engine.load(_cell(op, direction, given, **attributes), threads=threads)
    assert of.ragged, of.ragged_reason
    assert op not in of.ragged_reason, "its steps are taken together"
    rng = np.random.default_rng(12)
    for lengths in ([3, 1, 50, 3, 119, 17, 18], [9], [1, 1], [5, 4, 3]):
        check(of, [{"x": rng.standard_normal((1, n, 6)).astype(np.float32)} for n in lengths])


def _scaled() -> bytes:
    """Every row by its own mean over the length, times the number of tokens."""
    return serialise(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("ReduceMean", ["p"], ["m"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["p", "m"], ["c"]),
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "one"], ["n"], axis=0),
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["c", "f"], ["d"]),
            helper.make_node("Softmax", ["d"], ["y"], axis=1),
            helper.make_node("MatMul", ["d", "turned"], ["z"]),
        ],
        [tensor("x", ["n", "t", 8])],
        ["y", "z"],
        {
            "w": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32),
            "turned": np.random.default_rng(1).standard_normal((8, 24)).astype(np.float32),
            "one": np.array(1, np.int64),
        },
    )


def test_what_depends_on_the_length_runs_per_sequence() -> None:
    of = engine.load(_scaled(), threads=2)
    assert of.ragged, of.ragged_reason
    rng = np.random.default_rng(2)
    lengths = [3, 1, 50, 3, 119]
    check(of, [{"x": rng.standard_normal((1, n, 8)).astype(np.float32)} for n in lengths])


def _windows() -> bytes:
    """A product, then a convolution over neighbouring tokens and an output of quadratic size."""
    rng = np.random.default_rng(3)
    return serialise(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("Transpose", ["p"], ["t"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["t", "k"], ["c"], pads=[1, 1]),
            helper.make_node("MatMul", ["p", "t"], ["scores"]),
            helper.make_node("MatMul", ["x", "v"], ["q"]),
            helper.make_node("Sigmoid", ["q"], ["y"]),
        ],
        [tensor("x", ["n", "t", 8])],
        ["c", "scores", "y"],
        {
            "w": rng.standard_normal((8, 8)).astype(np.float32),
            "v": rng.standard_normal((8, 8)).astype(np.float32),
            "k": rng.standard_normal((4, 8, 3)).astype(np.float32),
        },
    )


def test_outputs_of_other_sizes() -> None:
    of = engine.load(_windows(), threads=2)
    assert of.ragged, of.ragged_reason
    rng = np.random.default_rng(5)
    check(of, [{"x": rng.standard_normal((2, n, 8)).astype(np.float32)} for n in (7, 64, 1, 30)])


def _reversed(axis: int) -> bytes:
    """A product beside tokens in reverse order: rows that a view steps through backwards."""
    return serialise(
        [
            helper.make_node("Slice", ["x", "from", "to", "axis", "step"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["a"]),
            helper.make_node("MatMul", ["x", "w"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
        [tensor("x", ["n", "t", 8])],
        ["y"],
        {
            "w": np.random.default_rng(6).standard_normal((8, 8)).astype(np.float32),
            "from": np.array([-1], np.int64),
            "to": np.array([-(1 << 40)], np.int64),
            "axis": np.array([axis], np.int64),
            "step": np.array([-1], np.int64),
        },
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_tokens_in_reverse(axis: int) -> None:
    of = engine.load(_reversed(axis), threads=2)
    assert of.ragged, of.ragged_reason
    rng = np.random.default_rng(7)
    check(of, [{"x": rng.standard_normal((1, n, 8)).astype(np.float32)} for n in (7, 64, 1, 30)])


def test_tokens_behind_each_other_in_a_sequence() -> None:
    """A sequence and its image joined along the length: tokens of one lie in half of the steps."""
    rng = np.random.default_rng(13)
    names = ("u", "v", "w")
    model = serialise(
        [
            helper.make_node("MatMul", ["x", "u"], ["a"]),
            helper.make_node("MatMul", ["x", "v"], ["b"]),
            helper.make_node("Concat", ["a", "b"], ["joined"], axis=1),
            helper.make_node("MatMul", ["joined", "w"], ["y"]),
        ],
        [tensor("x", ["n", "t", 8])],
        ["joined", "y"],
        {name: rng.standard_normal((8, 8)).astype(np.float32) for name in names},
    )
    of = engine.load(model, threads=2)
    assert of.ragged, of.ragged_reason
    check(of, [{"x": rng.standard_normal((1, n, 8)).astype(np.float32)} for n in (7, 64, 1, 30)])


def _mixed() -> bytes:
    """Rows of a batch that meet."""
    return serialise(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("ReduceMean", ["p"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["p", "m"], ["y"]),
        ],
        [tensor("x", ["n", "t", 8])],
        ["y"],
        {"w": np.eye(8, dtype=np.float32)},
    )


def _two_lengths() -> bytes:
    return serialise(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("MatMul", ["y", "w"], ["q"]),
        ],
        [tensor("x", ["n", "t", 8]), tensor("y", ["n", "u", 8])],
        ["p", "q"],
        {"w": np.eye(8, dtype=np.float32)},
    )


def _image() -> bytes:
    return serialise(
        [helper.make_node("Conv", ["x", "k"], ["y"])],
        [tensor("x", ["n", 3, 20, "width"])],
        ["y"],
        {"k": np.ones((4, 3, 3, 3), np.float32)},
    )


REFUSED = {
    "rows meet": (_mixed(), "rows are not independent"),
    "no length": (chain(width=8, layers=1), "no axis of open size"),
    "two lengths": (_two_lengths(), "several axes of open size besides the batch: t, u"),
    "no product of tokens": (_image(), "none of its matrix products"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models_run_one_after_the_other(name: str) -> None:
    model, reason = REFUSED[name]
    of = engine.load(model, threads=1)
    assert not of.ragged
    assert of.ragged_axes is None
    assert reason in of.ragged_reason
    rng = np.random.default_rng(8)
    feeds = []
    for sizes in ({"n": 2, "t": 5, "u": 3}, {"n": 1, "t": 9, "u": 4}):
        shapes = {
            s.name: [d if isinstance(d, int) else sizes.get(d, 7) for d in s.shape]
            for s in of.inputs
        }
        feeds.append({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})
    check(of, feeds)


def test_a_trained_encoder(models: Path) -> None:
    of = engine.load(models / "minilm_l6" / "model.onnx", threads=2)
    assert of.ragged, of.ragged_reason
    assert "6 Attention" in of.ragged_reason
    lengths = np.random.default_rng(9).integers(1, 121, 12)
    check(of, [feed(of, 1, int(n), seed) for seed, n in enumerate(lengths)])


def test_after_an_update_and_a_close() -> None:
    of = engine.load(_scaled(), threads=1)
    rng = np.random.default_rng(10)
    feeds = [{"x": rng.standard_normal((1, n, 8)).astype(np.float32)} for n in (4, 9)]
    before = of.run_ragged(feeds)
    of.update_weights({"turned": np.zeros((8, 24), np.float32)})
    check(of, feeds)
    assert of.run_ragged(feeds)[0]["z"].tobytes() != before[0]["z"].tobytes()
    of.close()
    assert not of.ragged
    with pytest.raises(RunError, match="closed"):
        of.run_ragged(feeds)

"""Reduced precision: what is rounded, what is kept, and what stays the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ml_dtypes import bfloat16
from onnx import helper, numpy_helper

import engine
from engine import Precision
from engine.codegen import target
from engine.graph.inference import infer
from engine.graph.reader import read
from engine.kernels.pairs import INSTRUCTION, WRITTEN
from engine.optimise import optimise, reduce
from engine.precision import arithmetic
from tests.engine.equality import assert_equal
from tests.engine.models import chain, serialise, tensor

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)
EMULATED = Precision.of("bf16", emulate=True)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def near(array: Array) -> Array:
    """The nearest bfloat16 numbers, in float64."""
    return array.astype(bfloat16).astype(np.float64)


def network() -> bytes:
    """A 3x3 convolution wide enough for minimal filtering, a depthwise one, an LSTM, a product."""
    weights = {
        "filters": draw(16, 16, 3, 3) * np.float32(0.1),
        "each": draw(16, 1, 3, 3),
        "W": draw(1, 80, 16) * np.float32(0.3),
        "R": draw(1, 80, 20) * np.float32(0.3),
        "M": draw(20, 7),
        "order": np.array([2, 0, 1], np.int64),
        "flat": np.array([0, 16, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["c"], "wide", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "each"], ["d"], "narrow", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Reshape", ["d", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["s"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["s", "W", "R"], ["", "h"], "layer", hidden_size=20),
        helper.make_node("MatMul", ["h", "M"], ["y"], "head"),
    ]
    return serialise(nodes, [tensor("x", ["n", 16, 6, 5])], ["y"], weights)


def rounded(model: bytes, *names: str) -> bytes:
    """The model with some of its weights rounded."""
    proto = onnx.load_from_string(model)
    for weight in proto.graph.initializer:
        if weight.name in names:
            array = near(numpy_helper.to_array(weight)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return proto.SerializeToString()


def run(model: bytes, precision: str | Precision, **feeds: Array) -> Array:
    session = engine.load(model, threads=2, precision=precision)
    try:
        return session.run(feeds)["y"]
    finally:
        session.close()


def oracle(model: bytes, **feeds: Array) -> Array:
    found: Array = onnxruntime.InferenceSession(model).run(None, feeds)[0]
    return found


def test_weights_of_products_are_rounded_and_nothing_else() -> None:
    model, x = network(), draw(2, 16, 6, 5)
    found = run(model, "bf16", x=x)
    assert_equal(found, oracle(rounded(model, "filters", "W", "R", "M"), x=x))
    with pytest.raises(AssertionError):
        assert_equal(found, oracle(model, x=x))
    with pytest.raises(AssertionError):
        assert_equal(found, oracle(rounded(model, "filters", "each", "W", "R", "M"), x=x))


def test_kept_nodes_keep_their_weights() -> None:
    model, x = network(), draw(1, 16, 6, 5)
    found = run(model, Precision.of("bf16", keep=["wide", "layer"]), x=x)
    assert_equal(found, oracle(rounded(model, "M"), x=x))


def test_first_products_are_those_that_explain_lists_first() -> None:
    model, x = network(), draw(1, 16, 6, 5)
    for first, names in enumerate([(), ("filters",), ("filters", "W", "R")]):
        found = run(model, Precision.of("bf16", first=first), x=x)
        assert_equal(found, oracle(rounded(model, *names), x=x))


def test_where_no_product_is_chosen_bytes_are_those_of_fp32() -> None:
    model, x = network(), draw(3, 16, 6, 5)
    plain = run(model, "fp32", x=x).tobytes()
    assert run(model, Precision.of("bf16", first=0), x=x).tobytes() == plain
    assert run(model, Precision.of("bf16", first=0, emulate=True), x=x).tobytes() == plain
    everything = Precision.of("bf16", keep=["wide", "layer", "head"])
    assert run(model, everything, x=x).tobytes() == plain


def test_emulated_product_has_both_factors_rounded() -> None:
    matrix, x = draw(70, 33), draw(5, 70)
    model = serialise(
        [helper.make_node("MatMul", ["x", "m"], ["y"])],
        [tensor("x", ["n", 70])],
        ["y"],
        {"m": matrix},
    )
    found = run(model, EMULATED, x=x)
    wanted = near(x) @ near(matrix)
    # The only error left is that of float32 sums.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    assert np.abs(found - x.astype(np.float64) @ matrix).max() > 1e-3 * np.abs(wanted).max()


def test_emulated_product_of_two_computed_matrices() -> None:
    a, b = draw(2, 9, 40), draw(2, 40, 11)
    model = serialise(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        [tensor("a", ["n", 9, 40]), tensor("b", ["n", 40, 11])],
        ["y"],
    )
    wanted = near(a) @ near(b)
    found = run(model, EMULATED, a=a, b=b)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_emulated_convolution_is_a_direct_sum() -> None:
    filters, x = draw(32, 32, 3, 3), draw(1, 32, 24, 24)
    model = serialise(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        [tensor("x", ["n", 32, 24, 24])],
        ["y"],
        {"w": filters},
    )
    found = run(model, EMULATED, x=x)
    padded = np.pad(near(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    wanted = np.einsum("ncyxij,ocij->noyx", windows, near(filters))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_emulated_attention_rounds_factors_of_both_products() -> None:
    q, k, v = draw(1, 2, 6, 16), draw(1, 2, 9, 16), draw(1, 2, 9, 8)
    nodes = [
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "t"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    shapes = {"q": ["n", 2, "s", 16], "k": ["n", 2, "m", 16], "v": ["n", 2, "m", 8]}
    inputs = [tensor(name, shape) for name, shape in shapes.items()]
    model = serialise(nodes, inputs, ["y"])
    session = engine.load(model, threads=1, precision=EMULATED)
    assert [o.op for o in session.explain().operations if o.reason] == ["packhorse.Attention"]
    scores = near(q) @ near(k).swapaxes(-1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = near(weights.astype(np.float32)) @ near(v) / weights.sum(-1, keepdims=True)
    found = session.run({"q": q, "k": k, "v": v})["y"]
    # An exponential that lies between two bfloat16 numbers may go either way.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())
    unrounded = weights @ near(v) / weights.sum(-1, keepdims=True)
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(found - unrounded).mean()


@pytest.mark.parametrize("precision", ["bf16", EMULATED], ids=["weights", "emulated"])
def test_rows_have_the_same_bytes_in_any_batch(precision: str | Precision) -> None:
    model, x = chain(48, 3), draw(7, 48)
    session = engine.load(model, threads=2, precision=precision)
    whole = session.run({"x": x})["y"]
    for row in range(7):
        alone = session.run({"x": x[row : row + 1]})["y"]
        assert alone.tobytes() == whole[row : row + 1].tobytes()


def emulated(node: Any, x: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
    """What one node gives in emulated bf16, and onnxruntime with its factors rounded."""
    shape: list[int | str] = ["n", *x.shape[1:]]
    model = serialise([node], [tensor("x", shape)], ["y"], weights)
    factors = [name for name, array in weights.items() if array.ndim > 1]
    wanted = oracle(rounded(model, *factors), x=near(x).astype(np.float32))
    return run(model, EMULATED, x=x), wanted


@pytest.mark.parametrize("channels", [3, 8])
def test_emulated_convolutions_of_every_kind(channels: int) -> None:
    weights = {"w": draw(12, channels, 3, 3), "b": draw(12)}
    for attributes in (
        {"strides": [2, 2]},
        {"pads": [1, 0, 2, 1]},
        {"dilations": [2, 1]},
    ):
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
        assert_equal(*emulated(node, draw(2, channels, 11, 9), weights))
    grouped = {"w": draw(12, channels, 3, 3), "b": draw(12)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, pads=[1, 1, 1, 1])
    assert_equal(*emulated(node, draw(1, 2 * channels, 7, 8), grouped))
    deep = {"w": draw(5, channels, 2, 3, 2)}
    assert_equal(
        *emulated(helper.make_node("Conv", ["x", "w"], ["y"]), draw(2, channels, 5, 6, 4), deep)
    )
    across = {"w": draw(channels, 5, 3, 3)}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert_equal(*emulated(node, draw(2, channels, 5, 4), across))


def test_emulated_long_sums_and_batched_weights() -> None:
    node = helper.make_node("MatMul", ["x", "m"], ["y"])
    for depth in (1024, 1025, 2051):
        found, wanted = emulated(node, draw(3, depth), {"m": draw(depth, 5)})
        assert_equal(found, wanted)
    assert_equal(*emulated(node, draw(2, 3, 5, 9), {"m": draw(3, 9, 7)}))


def test_emulated_recurrent_layer_rounds_weights_and_inputs() -> None:
    weights = {"W": draw(1, 80, 16), "R": draw(1, 80, 20), "B": draw(1, 160)}
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["", "y"], hidden_size=20)
    weights = {name: array * np.float32(0.2) for name, array in weights.items()}
    x = draw(6, 2, 16)
    model = serialise([node], [tensor("x", ["t", "n", 16])], ["y"], weights)
    wanted = oracle(rounded(model, "W", "R"), x=near(x).astype(np.float32))
    assert_equal(run(model, EMULATED, x=x), wanted)


def test_images_have_the_same_bytes_in_any_batch() -> None:
    model, x = network(), draw(3, 16, 6, 5)
    session = engine.load(model, threads=2, precision=EMULATED)
    whole = session.run({"x": x})["y"]
    for row in range(3):
        alone = session.run({"x": x[row : row + 1]})["y"]
        assert alone.tobytes() == np.ascontiguousarray(whole[:, row : row + 1]).tobytes()


def test_a_cpu_with_the_instructions_multiplies_what_is_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = target.host_features()
    monkeypatch.setattr(target, "host_features", lambda: features | {"avx512bf16"})
    chosen = Precision.of("bf16")
    wide = replace(target.select("baseline"), vector_bytes=64)
    assert arithmetic(chosen, wide) == INSTRUCTION
    assert arithmetic(EMULATED, wide) == INSTRUCTION
    assert arithmetic(chosen, target.select("baseline")) == ""
    assert arithmetic(Precision(), wide) == ""
    graph = read(network())
    infer(graph)
    optimise(graph)
    _, reduction = reduce(graph, chosen, native=True)
    assert reduction.whole == ("wide", "layer", "head")
    monkeypatch.undo()
    assert arithmetic(EMULATED, target.select("baseline")) == WRITTEN


def test_a_shared_weight_is_packed_once_for_products_of_one_precision() -> None:
    matrix = draw(32, 32)
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "m"], ["y"], "two"),
    ]
    model = serialise(nodes, [tensor("x", ["n", 32])], ["y"], {"m": matrix})
    x = draw(2, 32)
    found = run(model, Precision.of("bf16", keep=["two"]), x=x)
    wanted = x @ near(matrix).astype(np.float32) @ matrix
    assert_equal(found, wanted)


def test_updated_weights_are_rounded_too() -> None:
    model, x = network(), draw(1, 16, 6, 5)
    session = engine.load(model, threads=1, precision="bf16")
    changed = draw(20, 7)
    session.update_weights({"M": changed})
    proto = onnx.load_from_string(model)
    for weight in proto.graph.initializer:
        if weight.name == "M":
            weight.CopyFrom(numpy_helper.from_array(changed, "M"))
    updated = rounded(proto.SerializeToString(), "filters", "W", "R", "M")
    assert_equal(session.run({"x": x})["y"], oracle(updated, x=x))
    assert session.packs_total["M"] == 2


def test_explanation_and_session_say_what_became_of_it() -> None:
    model = network()
    session = engine.load(model, threads=1, precision=Precision.of("bf16", keep=["head"]))
    assert session.precision.startswith("bf16 weights in 2 of 3 products, multiplied in fp32: ")
    assert session.explain().precision == session.precision
    reasons = {operation.node: operation.reason for operation in session.explain().operations}
    assert reasons["layer"] == "bf16 weights"
    assert reasons["head"] == ""
    notes = {note.name: note.reasons for note in session.explain().passes}
    assert notes["reduced_precision"] == ("head stays in fp32: the caller asks for it",)
    assert engine.load(model, threads=1).precision == "fp32"


def test_unknown_names_are_refused_with_those_that_are_near() -> None:
    with pytest.raises(engine.InputError, match=r"no product 'haed'.*did you mean head"):
        engine.load(network(), precision=Precision.of("bf16", keep=["haed"]))


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(engine.InputError, match="'fp8' is not known"):
        engine.load(network(), precision="fp8")
    with pytest.raises(engine.InputError, match="precision bf16 only"):
        Precision.of("fp32", keep=["head"])
    with pytest.raises(engine.InputError, match="0 or more"):
        Precision.of("bf16", first=-1)

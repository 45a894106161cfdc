"""Models of one recurrent layer against onnxruntime: sizes, layouts, outputs, activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import engine
from engine.codegen.target import select
from engine.graph.dims import symbol
from engine.plan.lower.recurrent_teams import LayerSize, split
from engine.plan.lowering import Lowering
from engine.plan.packing import packs_total
from tests.engine.harness import ISAS
from tests.engine.single import Array, Single

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def data(*shape: int) -> Any:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 0.4).astype(np.float32)


def layer(
    op: str,
    hidden: int = 20,
    depth: int = 6,
    *,
    extra: dict[str, Array] | None = None,
    outputs: tuple[str, ...] | None = None,
    bias: bool = True,
    isa: str | None = None,
    threads: int = 2,
    **attributes: Any,
) -> Single:
    """A model with constant weights; `extra` are the inputs after B, by name."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * hidden
    weights = {"w": data(directions, rows, depth), "r": data(directions, rows, hidden)}
    if bias:
        weights["b"] = data(directions, 2 * rows)
    names = ["lengths", "h0", *(["c0", "peephole"] if op == "LSTM" else [])]
    given = extra or {}
    if "peephole" in given:
        weights["peephole"] = given["peephole"]
    order = ["x", "w", "r", "b" if bias else "", *(n if n in given else "" for n in names)]
    if outputs is None:
        outputs = ("y", "yh", "yc") if op == "LSTM" else ("y", "yh")
    return Single(
        op,
        {"x": data(2, 3, depth), **given, **weights},
        order=order,
        constants=list(weights),
        outputs=outputs,
        opset=14,
        isa=isa,
        threads=threads,
        hidden_size=hidden,
        **attributes,
    )


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths_and_batches_are_free(op: str, direction: str) -> None:
    model = layer(op, direction=direction)
    for steps, rows in ((1, 1), (7, 1), (5, 4), (3, 13)):
        model.check(x=data(steps, rows, 6))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_states_and_sequence_lengths(op: str, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    extra: dict[str, Array] = {"lengths": np.array([5, 1, 3], np.int32)}
    extra["h0"] = data(directions, 3, 20)
    if op == "LSTM":
        extra["c0"] = data(directions, 3, 20) * 2
    model = layer(op, direction=direction, extra=extra)
    model.check(x=data(5, 3, 6), **extra)


@pytest.mark.parametrize("op", GATES)
def test_some_outputs_and_no_bias(op: str) -> None:
    for outputs in (("y",), ("", "yh")):
        layer(op, outputs=outputs, bias=False, direction="bidirectional").check(x=data(4, 3, 6))


def test_gru_with_the_reset_gate_after_the_product() -> None:
    model = layer("GRU", linear_before_reset=1, direction="bidirectional")
    model.check(x=data(6, 5, 6))


def test_activations_take_parameters_in_order() -> None:
    model = layer(
        "LSTM",
        direction="bidirectional",
        activations=["HardSigmoid", "Tanh", "Elu", "Sigmoid", "LeakyRelu", "Softsign"],
        activation_alpha=[0.3, 0.7, 0.05],
        activation_beta=[0.4],
    )
    model.check(x=data(4, 3, 6))


def test_peepholes_clip_and_coupled_gates() -> None:
    extra = {"peephole": data(2, 60)}
    layer("LSTM", extra=extra, direction="bidirectional").check(x=data(4, 3, 6))
    layer("LSTM", extra=extra, direction="bidirectional", clip=0.2).check(x=data(4, 3, 6))
    layer("LSTM", extra=extra, direction="bidirectional", input_forget=1).check(x=data(4, 3, 6))


@pytest.mark.parametrize("op", GATES)
def test_batch_first_is_the_same_transposed(op: str) -> None:
    names = ("h0", "c0") if op == "LSTM" else ("h0",)
    states = {name: data(2, 4, 20) * (index + 1) for index, name in enumerate(names)}
    turned = {name: np.ascontiguousarray(state.swapaxes(0, 1)) for name, state in states.items()}
    lengths = {"lengths": np.array([5, 2, 4, 1], np.int32)}
    options: dict[str, Any] = {"direction": "bidirectional"}
    first = layer(op, layout=1, extra=lengths | turned, **options)
    usual = layer(op, extra=lengths | states, **options)
    assert first.native
    x = data(5, 4, 6)
    found = first.run(x=np.ascontiguousarray(x.swapaxes(0, 1)), **lengths, **turned)
    wanted = usual.run(x=x, **lengths, **states)
    np.testing.assert_array_equal(found[0], wanted[0].transpose(2, 0, 1, 3))
    for state, expected in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(state, expected.swapaxes(0, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", GATES)
def test_rows_alone_give_the_same_bytes(isa: str, op: str) -> None:
    model = layer(op, 45, isa=isa, direction="bidirectional", threads=1)
    other = layer(op, 45, isa=isa, direction="bidirectional", threads=2)
    x = data(6, 7, 6)
    whole = model.run(x=x)[0]
    assert whole.tobytes() == other.run(x=x)[0].tobytes()
    alone = model.run(x=np.ascontiguousarray(x[:, 3:4]))[0]
    assert whole[:, :, 3:4].tobytes() == alone.tobytes()


def test_weights_are_packed_at_load_alone() -> None:
    before = packs_total.total
    model = layer("LSTM")
    packed = packs_total.total
    assert packed > before
    for steps in (1, 3, 9):
        model.run(x=data(steps, 2, 6))
    assert packs_total.total == packed


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("hidden", [20, 32])
@pytest.mark.parametrize("op", GATES)
def test_weights_may_be_computed(op: str, hidden: int, isa: str) -> None:
    gates = GATES[op]
    inputs = {
        "x": data(2, 3, 6),
        "w": data(2, gates * hidden, 6),
        "r": data(2, gates * hidden, hidden),
        "b": data(2, 2 * gates * hidden),
        "": np.zeros(0, np.float32),
        "h0": data(2, 3, hidden),
    }
    order = list(inputs)
    del inputs[""]
    if op == "LSTM":
        inputs |= {"c0": data(2, 3, hidden), "p": data(2, 3 * hidden)}
        order += ["c0", "p"]
    attributes = {"linear_before_reset": 1} if op == "GRU" and hidden == 32 else {}
    fixed = [name for name in inputs if name not in ("x", "h0", "c0")]
    model = Single(
        op,
        inputs,
        order=order,
        opset=14,
        fixed=fixed,
        symbolic=False,
        isa=isa,
        outputs=["y", "yh"],
        hidden_size=hidden,
        direction="bidirectional",
        **attributes,
    )
    assert model.native
    model.check(**inputs)
    inputs["w"] = inputs["w"][:, ::-1].copy()
    model.check(**inputs)


def test_some_weights_may_be_computed() -> None:
    x, w, r = data(5, 3, 6), data(1, 20, 6), data(1, 20, 20)
    for constants in (["w"], ["r"], []):
        inputs = {"x": x, "w": w, "r": r}
        model = Single("RNN", inputs, constants=constants, opset=14, hidden_size=20, symbolic=False)
        assert model.native
        model.check(**{name: array for name, array in inputs.items() if name not in constants})


@pytest.mark.parametrize("op", GATES)
def test_threads_do_not_change_bytes(op: str) -> None:
    """Teams that share columns, also where they are more than the machine has CPUs."""
    alone = layer(op, hidden=96, threads=1)
    for threads in (2, 4):
        shared = layer(op, hidden=96, threads=threads)
        for steps, rows in ((40, 1), (40, 5), (1, 1), (0, 2)):
            x = data(steps, rows, 6)
            wanted = [array.tobytes() for array in alone.run(x=x)]
            for _ in range(3):
                assert [array.tobytes() for array in shared.run(x=x)] == wanted


def test_the_split_follows_the_predicted_cost() -> None:
    def chosen(threads: int, rows: int, padded: int, directions: int = 1) -> tuple[int, int, int]:
        low = Lowering(select(), threads=threads)
        lanes = low.target.lanes(4)
        teams = split(LayerSize(symbol("rows"), directions, padded, 4, lanes, 1), low)
        sizes = {"rows": rows}
        found = (teams.members, teams.blocks, teams.block)
        return tuple(dim.evaluate(sizes) for dim in found)  # type: ignore[return-value]

    # A small layer is not worth a meeting, one row of a large one is shared by columns, and many
    # rows by rows; weights beyond the private cache are divided whatever the rows.
    assert chosen(2, 1, 32) == (1, 1, 1)
    assert chosen(2, 1, 256) == (2, 1, 1)
    assert chosen(2, 32, 128) == (1, 2, 16)
    assert chosen(2, 8, 128) == (1, 2, 4)
    assert chosen(2, 32, 512) == (2, 1, 32)
    assert chosen(2, 8, 1024) == (2, 1, 8)
    assert chosen(2, 8, 256, directions=2) == (1, 1, 8)
    assert chosen(4, 1, 512)[0] == 4


def test_states_that_lie_inside_another_tensor_are_read_where_they_are() -> None:
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[T, N, 6] x, float[N, 2, 20] both) => (float[1, N, 20] yh) {
  zero = Constant<value = int64[1] {0}>()
  one = Constant<value = int64[1] {1}>()
  turned = Transpose<perm = [1, 0, 2]>(both)
  h0 = Gather<axis = 0>(turned, zero)
  c0 = Gather<axis = 0>(turned, one)
  y, yh = LSTM<hidden_size = 20>(x, w, r, , , h0, c0)
}
"""
    model = onnx.parser.parse_model(text)
    for name, array in (("w", data(1, 80, 6)), ("r", data(1, 80, 20))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    session = engine.load(model.SerializeToString(), threads=1)
    assert [operation.op for operation in session.explain().operations] == ["LSTM"]
    feeds = {"x": data(5, 3, 6), "both": data(3, 2, 20)}
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(session.run(feeds)["yh"], wanted, rtol=1e-4, atol=1e-5)

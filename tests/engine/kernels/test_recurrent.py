"""The recurrent kernels against onnxruntime: cells, directions, states, lengths, activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select
from engine.kernels.recurrent_cells import GATES, PLANES
from engine.kernels.recurrent_team import team_bytes
from engine.kernels.recurrent_tiles import sums_bytes
from engine.plan.recurrent_weights import pack_projection, pack_recurrent, pad_gates, padded
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]

ACTIVATIONS = {
    "lstm": ("Sigmoid", "Tanh", "Tanh"),
    "gru": ("Sigmoid", "Tanh"),
    "gru_linear": ("Sigmoid", "Tanh"),
    "rnn": ("Tanh",),
}
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "gru_linear": "GRU", "rnn": "RNN"}


class Layer:
    """Seeded inputs and weights of one recurrent layer."""

    def __init__(
        self, cell: str, steps: int, rows: int, depth: int, hidden: int, direction: str
    ) -> None:
        generator = np.random.default_rng(steps + rows + depth + hidden)
        self.cell, self.direction = cell, direction
        self.gates = GATES[cell]
        self.d = 2 if direction == "bidirectional" else 1

        def draw(*shape: int) -> Array:
            return (generator.standard_normal(shape) * 0.4).astype(np.float32)

        self.hidden = hidden
        self.x = draw(steps, rows, depth)
        self.w = draw(self.d, self.gates * hidden, depth)
        self.r = draw(self.d, self.gates * hidden, hidden)
        self.b = draw(self.d, 2 * self.gates * hidden)
        self.h0 = draw(self.d, rows, hidden)
        self.c0 = draw(self.d, rows, hidden)
        self.peephole = draw(self.d, 3 * hidden)
        self.lengths = generator.integers(1, max(2, steps + 1), rows).astype(np.int32)

    def expected(
        self, *, initial: bool = True, lengths: bool = False, peephole: bool = False, **more: Any
    ) -> list[Array]:
        """Y, Y_h and for an LSTM Y_c, by onnxruntime."""
        feeds = {"x": self.x, "w": self.w, "r": self.r, "b": self.b}
        names = ["x", "w", "r", "b", "lengths" if lengths else "", "h0" if initial else ""]
        if lengths:
            feeds["lengths"] = self.lengths
        if initial:
            feeds["h0"] = self.h0
        outputs = ["y", "yh"]
        if self.cell == "lstm":
            names.append("c0" if initial else "")
            outputs.append("yc")
            if initial:
                feeds["c0"] = self.c0
            if peephole:
                names.append("peephole")
                feeds["peephole"] = self.peephole
        if self.cell == "gru_linear":
            more["linear_before_reset"] = 1
        node = onnx.helper.make_node(
            OPERATORS[self.cell],
            names,
            outputs,
            hidden_size=self.hidden,
            direction=self.direction,
            **more,
        )
        kinds = {
            name: onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        }
        results = [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs]
        graph = onnx.helper.make_graph([node], "layer", list(kinds.values()), results)
        opset = [onnx.helper.make_opsetid("", 14)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found: list[Array] = session.run(None, feeds)
        return found

    def run(
        self,
        isa: str,
        *,
        initial: bool = True,
        lengths: bool = False,
        peephole: bool = False,
        row_block: int = 3,
        team: int = 1,
        pieces: int = 1,
        activations: tuple[tuple[str, float, float], ...] | None = None,
        clip: float | None = None,
        input_forget: int = 0,
    ) -> list[Array]:
        """The same by our kernel."""
        target = select(isa)
        lanes, hidden, gates, d = target.lanes(4), self.hidden, self.gates, self.d
        steps, rows, depth = self.x.shape
        width = padded(hidden, lanes)
        half = gates * hidden
        bias, recurrent_bias = self.b[:, :half].copy(), self.b[:, half:].copy()
        arguments: dict[str, Any] = {}
        if self.cell == "gru_linear":
            arguments["rb"] = pad_gates(recurrent_bias[:, 2 * hidden :], 1, lanes)
            recurrent_bias[:, 2 * hidden :] = 0
        if self.cell == "gru":
            arguments["r"] = pack_recurrent(self.r[:, : 2 * hidden], 2, lanes)
            arguments["r2"] = pack_recurrent(self.r[:, 2 * hidden :], 1, lanes)
        else:
            arguments["r"] = pack_recurrent(self.r, gates, lanes)
        total = (bias + recurrent_bias)[:, :, None]
        projected = self.x.reshape(-1, depth) @ pack_projection(self.w, gates, lanes)
        projected = projected + pack_projection(total, gates, lanes)
        arguments["x"] = np.ascontiguousarray(projected.astype(np.float32))
        y = np.full((steps, d, rows, hidden), 7, np.float32)
        yh, yc = (np.full((d, rows, hidden), 7, np.float32) for _ in range(2))
        arguments |= {"y": y, "yh": yh, "y_t": d * rows * hidden}
        outputs = ["y", "yh"]
        states: dict[str, Any] = {}
        if initial:
            states["h0"] = self.h0
        if self.cell == "lstm":
            outputs.append("yc")
            arguments["yc"] = yc
            if initial:
                states["c0"] = self.c0
        initials = list(states)
        for name in initials:
            states |= {f"{name}_d": rows * hidden, f"{name}_b": hidden}
        for name in outputs:
            arguments |= {f"{name}_d": rows * hidden, f"{name}_b": hidden}
        if peephole:
            arguments["peephole"] = pad_gates(self.peephole, 3, lanes)
        if lengths:
            arguments["lengths"] = self.lengths
        if clip is not None:
            arguments["clip"] = clip
        named = activations or tuple((n, 0.0, 0.0) for n in ACTIVATIONS[self.cell])
        spec = KernelSpec.of(
            "recurrent",
            cell=self.cell,
            activations=named,
            clip=clip is not None,
            peephole=peephole,
            input_forget=bool(input_forget),
            lengths=lengths,
            ragged=False,
            outputs=outputs,
        )
        blocks = -(-rows // row_block)
        pitch = width * 4 + 64
        place: dict[str, Any] = {
            "state": np.full(PLANES[self.cell] * d * rows * pitch // 4, np.nan, np.float32),
            "shared": np.full(d * blocks * team_bytes(team) // 8, 7, np.int64),
            "hidden": hidden,
            "padded": width,
            "pitch": pitch,
            "plane": d * rows * pitch,
        }
        start = KernelSpec.of("recurrent_start", cell=self.cell, initial=initials)
        words = place["shared"].size
        assert run_kernel(start, isa, d, rows=rows, words=words, **place, **states) == 0
        status = run_kernel(
            spec,
            isa,
            d * blocks * team,
            pieces=pieces,
            scratch=sums_bytes(self.cell, target, row_block),
            steps=steps,
            rows=rows,
            row_block=row_block,
            row_blocks=blocks,
            team=team,
            share=-(-width // lanes // team),
            team_bytes=team_bytes(team),
            reverse=int(self.direction == "reverse"),
            x_t=rows * arguments["x"].shape[1],
            x_b=arguments["x"].shape[1],
            **place,
            **arguments,
        )
        assert status == 0
        return [y, yh, yc] if self.cell == "lstm" else [y, yh]


def compare(layer: Layer, isa: str, **options: Any) -> None:
    expected = layer.expected(**options)
    for found, wanted in zip(layer.run(isa, **options), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


cells = st.sampled_from(sorted(GATES))
directions = st.sampled_from(["forward", "reverse", "bidirectional"])


@settings(max_examples=40, deadline=None)
@given(
    cells,
    directions,
    st.sampled_from(ISAS),
    st.integers(1, 5),
    st.integers(1, 10),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.integers(1, 10),
    st.integers(1, 4),
)
def test_layers_equal_onnxruntime(
    cell: str,
    direction: str,
    isa: str,
    steps: int,
    rows: int,
    hidden: int,
    initial: bool,
    lengths: bool,
    row_block: int,
    team: int,
) -> None:
    layer = Layer(cell, steps, rows, 5, hidden, direction)
    expected = layer.expected(initial=initial, lengths=lengths)
    results = layer.run(isa, initial=initial, lengths=lengths, row_block=row_block, team=team)
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_peepholes_clip_and_coupled_gates(isa: str) -> None:
    layer = Layer("lstm", 4, 3, 6, 19, "bidirectional")
    compare(layer, isa, peephole=True)
    compare(layer, isa, clip=0.3)
    compare(layer, isa, peephole=True, input_forget=1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", 0, 0),
        ("Affine", 0.5, 0.1),
        ("LeakyRelu", 0.1, 0),
        ("ThresholdedRelu", 0.2, 0),
        ("ScaledTanh", 0.8, 0.7),
        ("HardSigmoid", 0.3, 0.4),
        ("Elu", 0.9, 0),
        ("Softsign", 0, 0),
        ("Softplus", 0, 0),
    ],
)
def test_activations(isa: str, name: str, alpha: float, beta: float) -> None:
    layer = Layer("rnn", 3, 2, 4, 21, "forward")
    expected = layer.expected(
        activations=[name], activation_alpha=[float(alpha)], activation_beta=[float(beta)]
    )
    found = layer.run(isa, activations=((name, alpha, beta),))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", sorted(GATES))
def test_rows_do_not_depend_on_blocks_or_neighbours(isa: str, cell: str) -> None:
    layer = Layer(cell, 4, 7, 5, 45, "bidirectional")
    whole = layer.run(isa, row_block=7)
    for row_block, pieces, team in ((1, 3, 1), (3, 2, 2), (5, 1, 1), (7, 6, 3)):
        parts = layer.run(isa, row_block=row_block, pieces=pieces, team=team)
        assert [a.tobytes() for a in parts] == [a.tobytes() for a in whole]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", sorted(GATES))
def test_bands_of_rows_and_chunks_of_weights(isa: str, cell: str) -> None:
    """More rows than a tile has, and more weights than stay in L1."""
    layer = Layer(cell, 2, 27, 5, 150, "forward")
    expected = layer.expected()
    alone = layer.run(isa, row_block=1)
    for row_block in (12, 13, 27):
        found = layer.run(isa, row_block=row_block)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
        assert [a.tobytes() for a in found] == [a.tobytes() for a in alone]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", sorted(GATES))
def test_gates_far_outside_of_the_range_saturate(isa: str, cell: str) -> None:
    """Also without bounds, and a row that is no number stays so and alone."""
    layer = Layer(cell, 3, 4, 5, 21, "forward")
    layer.x *= 10.0 ** np.arange(1, 5, dtype=np.float32)[:, None]
    expected = layer.expected()
    for found, wanted in zip(layer.run(isa), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    layer.x[:, 2] = np.nan
    for found, wanted in zip(layer.run(isa), expected, strict=True):
        np.testing.assert_array_equal(np.isnan(found).all(axis=-1), np.isnan(found).any(axis=-1))
        assert np.isnan(found[..., 2, :]).all()
        others = np.arange(4) != 2
        np.testing.assert_allclose(
            found[..., others, :], wanted[..., others, :], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", sorted(GATES))
def test_no_steps_keep_the_state(isa: str, cell: str) -> None:
    layer = Layer(cell, 0, 2, 5, 9, "forward")
    results = layer.run(isa)
    np.testing.assert_array_equal(results[1], layer.h0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [-1, 6])
def test_lengths_outside_the_sequence_are_refused(isa: str, length: int) -> None:
    layer = Layer("gru", 5, 2, 5, 9, "forward")
    layer.lengths[1] = length
    with pytest.raises(AssertionError):
        layer.run(isa, lengths=True)

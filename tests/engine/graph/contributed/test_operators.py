"""Normalisation, activations, products and movement of the domain com.microsoft."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.reader import read
from tests.engine.graph.contributed.support import check, model_of
from tests.engine.graph.support import interpret

Array = np.ndarray[Any, Any]
_examples = settings(max_examples=12, deadline=None)
sizes = st.integers(1, 5)


def normal(shape: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu", "Gelu", "QuickGelu"])
def test_activations(op: str) -> None:
    inputs = {"x": normal((3, 4, 8), scale=3)}
    if op in ("BiasGelu", "FastGelu"):
        inputs["b"] = normal((8,), 1)
    check(op, inputs)


def test_quick_gelu_has_a_factor() -> None:
    check("QuickGelu", {"x": normal((5, 7))}, alpha=0.7)


@given(batch=sizes, length=sizes, bias=st.booleans(), beta=st.booleans(), broadcast=st.booleans())
@_examples
def test_skip_layer_normalisation(
    batch: int, length: int, bias: bool, beta: bool, broadcast: bool
) -> None:
    inputs = {
        "x": normal((batch, length, 16), 1, 1e-3),
        "skip": normal((1 if broadcast else batch, length, 16), 2, 1e-3),
        "gamma": normal((16,), 3),
        "beta": normal((16,), 4),
        "bias": normal((16,), 5),
    }
    order = ["x", "skip", "gamma", "beta" if beta else "", "bias" if bias else ""]
    inputs = {name: array for name, array in inputs.items() if name in order}
    outputs = ["y", "", "", "sum"]
    check("SkipLayerNormalization", inputs, order=order, outputs=outputs)
    order = [name for name in order if name != "beta"]
    inputs.pop("beta", None)
    order = [name for name in order if name] if not bias else ["x", "skip", "gamma", "bias"]
    check("SkipSimplifiedLayerNormalization", inputs, order=order, outputs=outputs)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalisation_stands_in_the_standard_domain(axis: int) -> None:
    x = normal((2, 3, 8))
    inputs = {"x": x, "scale": normal(x.shape[axis:], 1)}
    outputs = ["y", "inverse"]
    check("SimplifiedLayerNormalization", inputs, domain="", outputs=outputs, axis=axis)


@given(
    batch=sizes, length=sizes, segments=st.booleans(), mask=st.booleans(), positions=st.booleans()
)
@_examples
def test_embed_layer_normalisation(
    batch: int, length: int, segments: bool, mask: bool, positions: bool
) -> None:
    rng = np.random.default_rng(batch * 10 + length)
    inputs: dict[str, Array] = {
        "ids": rng.integers(0, 11, (batch, length)).astype(np.int32),
        "segments": rng.integers(0, 2, (batch, length)).astype(np.int32),
        "words": normal((11, 8), 1),
        "table": normal((9, 8), 2),
        "kinds": normal((2, 8), 3),
        "gamma": normal((8,), 4),
        "beta": normal((8,), 5),
        "mask": rng.integers(0, 2, (batch, length)).astype(np.int32),
        "positions": rng.integers(0, 9, (batch, length)).astype(np.int32),
    }
    order = list(inputs)
    for name, used in (("segments", segments), ("kinds", segments), ("mask", mask)):
        if not used:
            order[order.index(name)] = ""
            del inputs[name]
    if not positions:
        del inputs[order.pop()]
    check(
        "EmbedLayerNormalization",
        inputs,
        order=order,
        outputs=["y", "mask_index", "sum"],
        constants=["words", "table", "gamma", "beta"],
    )


@given(
    batch=st.integers(1, 3),
    rows=sizes,
    turned=st.tuples(st.booleans(), st.booleans()),
    moved=st.tuples(st.booleans(), st.booleans()),
)
@_examples
def test_fused_matmul(
    batch: int, rows: int, turned: tuple[bool, bool], moved: tuple[bool, bool]
) -> None:
    left, right = [batch, 2, rows, 6], [batch, 2, 6, 3]
    for shape, swap, move in ((left, turned[0], moved[0]), (right, turned[1], moved[1])):
        if swap:
            shape[-2:] = shape[:-3:-1]
        if move:
            # What stands first goes behind the batch.
            shape[:-1] = [shape[-2], *shape[:-2]]
    inputs = {"a": normal(tuple(left)), "b": normal(tuple(right), 1)}
    check(
        "FusedMatMul",
        inputs,
        alpha=0.5,
        transA=int(turned[0]),
        transB=int(turned[1]),
        transBatchA=int(moved[0]),
        transBatchB=int(moved[1]),
    )


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh", "Elu", "HardSigmoid"])
def test_fused_gemm(activation: str) -> None:
    inputs = {"a": normal((4, 6)), "b": normal((5, 6), 1), "c": normal((5,), 2)}
    more = {"LeakyRelu": 1, "Elu": 1, "HardSigmoid": 2}.get(activation, 0)
    names = ("activation_alpha", "activation_beta")[:more]
    check(
        "FusedGemm",
        inputs,
        activation=activation,
        transB=1,
        alpha=1.5,
        beta=0.5,
        **dict.fromkeys(names, 0.3),
    )


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.3, 0.4])],
)
@pytest.mark.parametrize("residual", [False, True])
def test_fused_conv(activation: str, parameters: list[float], residual: bool) -> None:
    inputs = {"x": normal((2, 3, 6, 5)), "w": normal((4, 3, 3, 3), 1), "b": normal((4,), 2)}
    if residual:
        inputs["z"] = normal((2, 4, 6, 5), 3)
    more = {"activation_params": parameters} if parameters else {}
    check(
        "FusedConv",
        inputs,
        constants=["w", "b"],
        activation=activation,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        **more,
    )


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances(metric: str) -> None:
    check("CDist", {"a": normal((4, 6)), "b": normal((3, 6), 1)}, metric=metric)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str) -> None:
    inputs: dict[str, Array] = {"x": normal((3, 4)), "pads": np.array([1, 0, 2, 1])}
    if mode == "constant":
        inputs["value"] = np.array([2.5], np.float32)
    check("Pad", inputs, constants=["pads"], mode=mode)


def test_early_forms_of_standard_operators() -> None:
    check("Trilu", {"x": normal((4, 5)), "k": np.array(1)}, upper=0)
    grid = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(np.float32)
    check("GridSample", {"x": normal((2, 3, 5, 5)), "grid": grid}, align_corners=1)
    step = np.array(2, np.float32)
    bounds = {"start": np.array(1, np.float32), "limit": np.array(9, np.float32)}
    check("Range", bounds)
    check("Range", {**bounds, "step": step})
    check("ExpandDims", {"x": normal((2, 3)), "axis": np.array(1, np.int32)}, constants=["axis"])
    check("GatherND", {"x": normal((3, 4)), "i": np.array([[0, 1], [2, 3]])})


def test_unique_counts_in_order_of_appearance() -> None:
    x = np.array([3, 1, 3, 2, 1, 3], np.float32)
    check("Unique", {"x": x}, outputs=["y", "places", "counts"])


def test_inverse() -> None:
    check("Inverse", {"x": normal((2, 4, 4)) + 3 * np.eye(4, dtype=np.float32)})


@given(height=st.integers(2, 6), rows=st.integers(1, 4), nearest=st.booleans())
@_examples
def test_crop_and_resize(height: int, rows: int, nearest: bool) -> None:
    rng = np.random.default_rng(height * 10 + rows)
    inputs: dict[str, Array] = {
        "x": normal((2, 3, height, 5)),
        "rois": rng.uniform(-0.2, 1.2, (4, 4)).astype(np.float32),
        "batch": np.array([0, 1, 1, 0], np.int32),
        "size": np.array([rows, 3], np.int32),
    }
    mode = "nearest" if nearest else "bilinear"
    check("CropAndResize", inputs, mode=mode, extrapolation_value=7.0)


def test_operators_of_other_devices() -> None:
    """Their runtime has no CPU kernel to compare with."""
    x, bias, skip = normal((2, 3, 8)), normal((8,), 1), normal((2, 3, 8), 2)
    feed = {"x": x, "bias": bias, "skip": skip}
    (y,) = interpret(read(model_of("BiasAdd", feed)), feed)
    np.testing.assert_allclose(y, x + bias + skip)
    del feed["skip"]
    (y,) = interpret(read(model_of("BiasSplitGelu", feed)), feed)
    gelu = {"g": (x + bias)[..., 4:]}
    (expected,) = interpret(read(model_of("Gelu", gelu)), gelu)
    np.testing.assert_allclose(y, (x + bias)[..., :4] * expected, rtol=1e-6)

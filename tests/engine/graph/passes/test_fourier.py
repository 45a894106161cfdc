"""Fourier transforms as products, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import engine
from tests.engine.models import serialise, tensor
from tests.engine.single import Array, Single

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", [{}, {"onesided": 1}, {"inverse": 1}])
@settings(max_examples=6, deadline=None)
@given(length=st.integers(1, 40), rows=st.integers(0, 3), old=st.booleans())
def test_transform(form: dict[str, int], length: int, rows: int, old: bool) -> None:
    parts = 2 if "inverse" in form else 1
    shape = (rows, length, 3, parts) if old else (rows, length, parts)
    options: dict[str, Any] = {"axis": 1, "opset": 17} if old else {"opset": 20}
    x = normal(*shape)
    Single("DFT", {"x": x}, symbolic=False, **options, **form).check(x=x)


@pytest.mark.parametrize("length", [9, 16, 23])
def test_input_that_is_longer_or_shorter(length: int) -> None:
    x = normal(2, 16, 1)
    arrays = {"x": x, "length": np.array(length)}
    Single("DFT", arrays, constants=["length"], symbolic=False, opset=20).check(x=x)


def short_time(length: int, step: int, window: bool, onesided: int) -> bytes:
    """A transform of signals [rows, samples] of any number."""
    constants = {"axes": np.array([2]), "step": np.array(step), "length": np.array(length)}
    if window:
        constants["window"] = np.hanning(length + 1)[:-1].astype(np.float32)
    names = ["signal", "step", "window" if window else "", "length"]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["signal"]),
        helper.make_node("STFT", names, ["y"], onesided=onesided),
    ]
    return serialise(nodes, [tensor("x", ["n", "samples"])], ["y"], constants)


@pytest.mark.parametrize(
    ("length", "step", "window", "onesided"),
    [(16, 4, True, 1), (15, 20, True, 0), (400, 160, False, 1)],
)
def test_short_time_transform(length: int, step: int, window: bool, onesided: int) -> None:
    model = short_time(length, step, window, onesided)
    session = engine.load(model)
    assert not session.explain().fallbacks
    oracle = onnxruntime.InferenceSession(model)
    for rows, samples in [(1, length), (3, 5 * length + 7), (2, 2 * length)]:
        x = normal(rows, samples)
        (expected,) = oracle.run(None, {"x": x})
        found = session.run({"x": x})["y"]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(np.abs(expected).max()))
    if step < length:
        with pytest.raises(engine.InputError):
            session.run({"x": normal(1, length - step - 1)})

"""Fourier transforms against numpy's in float64, which has other code and other factors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import engine
from tests.engine.harness import ISAS
from tests.engine.single import Array

RNG = np.random.default_rng(0)
LENGTHS = (
    1,
    2,
    3,
    5,
    7,
    8,
    11,
    15,
    16,
    17,
    30,
    31,
    64,
    75,
    97,
    128,
    210,
    257,
    400,
    512,
    1021,
    2048,
)
TOLERANCE = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-14}


def normal(*shape: int, dtype: str = "float32") -> Array:
    return RNG.standard_normal(shape).astype(dtype)


def expected(x: Array, length: int, axis: int, inverse: int, onesided: int) -> Array:
    """The operator's result, by numpy."""
    numbers = x[..., 0].astype(complex)
    if x.shape[-1] == 2:
        numbers += 1j * x[..., 1]
    if inverse and onesided:
        return np.fft.irfft(numbers, length, axis)[..., None]
    found = (np.fft.ifft if inverse else np.fft.fft)(numbers, length, axis)
    if onesided:
        found = found.take(range(length // 2 + 1), axis)
    return np.stack([found.real, found.imag], -1)


def check(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    error = float(np.abs(found - wanted).max(initial=0))
    assert error <= TOLERANCE[str(found.dtype)] * float(np.abs(wanted).max(initial=1e-9))


def load(
    x: tuple[int | str, ...],
    dtype: str = "float32",
    given: tuple[str, ...] = ("length",),
    opset: int = 20,
    isa: str | None = None,
    **attributes: int,
) -> engine.Session:
    """A DFT of an input with the axes `x`; `given` of length and axis are inputs."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    infos = [helper.make_tensor_value_info("x", kind, x)]
    infos += [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in given]
    names = ["x", *(name if name in given else "" for name in ("length", "axis"))]
    while not names[-1]:
        names.pop()
    node = helper.make_node("DFT", names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")])
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = engine.load(model.SerializeToString(), threads=2, isa=isa)
    assert not session.explain().fallbacks
    return session


FORMS = [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 2), (1, 0, 1), (1, 1, 2)]


@pytest.mark.parametrize(("inverse", "onesided", "parts"), FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_lengths_that_a_run_decides(dtype: str, inverse: int, onesided: int, parts: int) -> None:
    session = load(("n", "w", parts), dtype, inverse=inverse, onesided=onesided)
    for length in LENGTHS:
        for own in {max(1, length - 3), length, length + 5, length // 2 + 1}:
            x = normal(2, own, parts, dtype=dtype)
            found = session.run({"x": x, "length": np.array(length)})["y"]
            check(found, expected(x, length, 1, inverse, onesided))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_instruction_set(isa: str, dtype: str) -> None:
    session = load(("n", "w", 2), dtype, isa=isa)
    for length in LENGTHS:
        x = normal(1, length, 2, dtype=dtype)
        found = session.run({"x": x, "length": np.array(length)})["y"]
        check(found, expected(x, length, 1, 0, 0))


@pytest.mark.parametrize(("inverse", "onesided", "parts"), FORMS)
@pytest.mark.parametrize("length", [66, 67, 100, 128, 441])
def test_lengths_that_are_known(length: int, inverse: int, onesided: int, parts: int) -> None:
    own = length // 2 + 1 if inverse and onesided else length
    shape = ("n", own, 3, parts)
    options = {"inverse": inverse, "onesided": onesided}
    session = load(shape, given=(), axis=1, opset=17, **options)
    x = normal(4, own, 3, parts)
    if inverse and onesided and length % 2:
        length -= 1
    check(session.run({"x": x})["y"], expected(x, length, 1, inverse, onesided))


@pytest.mark.parametrize(("inverse", "onesided", "parts"), FORMS)
@pytest.mark.parametrize("given", [("axis",), ("length", "axis")])
def test_axes_that_a_run_decides(
    given: tuple[str, ...], inverse: int, onesided: int, parts: int
) -> None:
    session = load(("a", "b", "c", parts), given=given, inverse=inverse, onesided=onesided)
    x = normal(3, 5, 9, parts)
    for axis in (0, 1, 2, -2, -4):
        length = 2 * (x.shape[axis] - 1) if inverse and onesided else x.shape[axis]
        feeds = {"x": x, "axis": np.array(axis)}
        if "length" in given:
            length = 10
            feeds["length"] = np.array(length)
        found = session.run(feeds)["y"]
        check(found, expected(x, length, axis % 4, inverse, onesided))
    for axis in (3, -1, 4):
        with pytest.raises(engine.EngineError):
            session.run({**feeds, "axis": np.array(axis)})


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 3000), rows=st.integers(1, 3), parts=st.integers(1, 2))
def test_any_length(length: int, rows: int, parts: int) -> None:
    session = ANY[parts]
    x = normal(rows, length, parts)
    check(session.run({"x": x})["y"], expected(x, length, 1, 0, 0))


ANY = {parts: load(("n", "w", parts), given=()) for parts in (1, 2)}


@pytest.mark.parametrize("length", [128, 131])
def test_a_line_has_the_same_bytes_anywhere(length: int) -> None:
    session = load(("n", "w", 2))
    x = normal(64, length, 2)
    whole = session.run({"x": x, "length": np.array(length)})["y"]
    session.run({"x": normal(2, 77, 2), "length": np.array(300)})
    for start, stop in ((0, 1), (5, 6), (63, 64), (10, 33)):
        found = session.run({"x": x[start:stop], "length": np.array(length)})["y"]
        assert found.tobytes() == whole[start:stop].tobytes()


@pytest.mark.parametrize("length", [0, -3])
def test_lengths_that_are_none(length: int) -> None:
    for onesided in (0, 1):
        session = load(("n", "w", 1), onesided=onesided)
        with pytest.raises(engine.InputError):
            session.run({"x": normal(2, 8, 1), "length": np.array(length)})


def test_a_line_of_nothing() -> None:
    session = load(("n", "w", 1))
    found = session.run({"x": normal(2, 0, 1), "length": np.array(4)})["y"]
    assert not found.any()
    assert session.run({"x": normal(0, 5, 1), "length": np.array(4)})["y"].shape == (0, 4, 2)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("window", [False, True])
def test_frames_that_a_run_decides(window: bool, parts: int) -> None:
    names = ["x", "step", "window" if window else "", "length"]
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "w", parts]),
        helper.make_tensor_value_info("step", TensorProto.INT64, []),
        helper.make_tensor_value_info("length", TensorProto.INT64, []),
    ]
    if window:
        infos.append(helper.make_tensor_value_info("window", TensorProto.FLOAT, ["f"]))
    node = helper.make_node("STFT", names, ["y"], onesided=parts % 2)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info("y")])
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    session = engine.load(model)
    assert not session.explain().fallbacks
    for samples, step, length in ((90, 7, 40), (64, 64, 64), (200, 30, 101), (90, 7, 40)):
        x, weights = normal(2, samples, parts), normal(length)
        feeds = {"x": x, "step": np.array(step), "length": np.array(length)}
        frames = np.stack([x[:, i : i + length] for i in range(0, samples - length + 1, step)], 1)
        if window:
            feeds["window"] = weights
            frames = frames * weights[:, None]
        check(session.run(feeds)["y"], expected(frames, length, 2, 0, parts % 2))
    if window:
        with pytest.raises(engine.InputError):
            session.run({**feeds, "window": normal(39)})

"""Convolutions of few channels, with and without pooling, against onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import engine
from tests.engine.equality import assert_equal
from tests.engine.harness import ISAS
from tests.engine.models import serialise, tensor
from tests.engine.plan.lower.promises import at_the_end, at_the_start

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A convolution of few channels, what follows it, and sizes to run at."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    channels: int
    outputs: int
    pooled: str
    last: bool
    batch: int
    size: tuple[int, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = draw(st.tuples(*[st.integers(1, 5)] * 2))
    pooled = draw(st.sampled_from(["", "floor", "ceil"]))
    # At least one position of pooling, or three of which one is clipped.
    least = [k + 4 for k in kernel]
    return Case(
        kernel,
        draw(st.tuples(*[st.integers(1, 2)] * 2)),
        draw(st.tuples(*[st.integers(0, 3)] * 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 80 if pooled else 32)),
        pooled,
        draw(st.booleans()),
        draw(st.integers(1, 3)),
        (draw(st.integers(least[0], 40)), draw(st.integers(least[1], 90))),
    )


def build(case: Case) -> bytes:
    rng = np.random.default_rng(0)
    shape = (case.outputs, case.channels, *case.kernel)
    constants = {
        "w": rng.standard_normal(shape).astype(np.float32),
        "b": rng.standard_normal(case.outputs).astype(np.float32),
        "s": rng.standard_normal((case.outputs, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["i", "w", "b"], ["c"], strides=case.strides, pads=case.pads),
        helper.make_node("PRelu", ["c", "s"], ["p"]),
    ]
    image = ["n", "h", "v", case.channels] if case.last else ["n", case.channels, "h", "v"]
    start = helper.make_node("Transpose", ["x"], ["i"], perm=[0, 3, 1, 2])
    nodes.insert(0, start if case.last else helper.make_node("Identity", ["x"], ["i"]))
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    if case.pooled:
        ceil = int(case.pooled == "ceil")
        nodes.append(helper.make_node("MaxPool", ["p"], ["y"], ceil_mode=ceil, **window))
    return serialise(nodes, [tensor("x", image)], ["y" if case.pooled else "p"], constants)


def image(case: Case, size: tuple[int, int], batch: int) -> dict[str, Array]:
    rng = np.random.default_rng(sum(size))
    shape = (batch, *size, case.channels) if case.last else (batch, case.channels, *size)
    return {"x": rng.standard_normal(shape).astype(np.float32)}


def only(session: engine.Session, feeds: dict[str, Array]) -> Array:
    (result,) = session.run(feeds).values()
    return result


def check(case: Case, isa: str | None = None) -> None:
    model = build(case)
    session = engine.load(model, threads=2, isa=isa)
    kernels = [operation.kernel for operation in session.explain().operations]
    assert "planes" in kernels, kernels
    assert "pool" not in kernels, kernels
    oracle = onnxruntime.InferenceSession(model)
    sizes = (case.size, (case.size[0] + 1, case.size[1] + 7), case.size)
    results = []
    for size in sizes:
        feeds = image(case, size, case.batch)
        results.append(only(session, feeds))
        assert_equal(results[-1], oracle.run(None, feeds)[0])
        alone = only(session, {"x": feeds["x"][-1:]})
        assert alone.tobytes() == results[-1][-1:].tobytes()
    assert results[0].tobytes() == results[2].tobytes()


@settings(max_examples=25, deadline=None)
@given(cases())
def test_images_of_any_size(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pooled", ["", "floor", "ceil"])
def test_every_instruction_set(isa: str, pooled: str) -> None:
    check(Case((3, 3), (1, 1), (1, 0, 0, 2), 3, 10, pooled, False, 2, (13, 37)), isa)


def test_threads_give_the_same_bytes() -> None:
    case = Case((3, 3), (1, 1), (0, 0, 0, 0), 3, 10, "floor", False, 3, (61, 90))
    feeds = image(case, case.size, case.batch)
    one, two = (only(engine.load(build(case), threads=n), feeds) for n in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_a_window_that_reads_no_image_gives_the_bias() -> None:
    case = Case((1, 1), (2, 2), (3, 3, 3, 3), 2, 5, "", False, 1, (2, 2))
    model, feeds = build(case), image(case, case.size, 1)
    expected = onnxruntime.InferenceSession(model).run(None, feeds)[0]
    assert_equal(only(engine.load(model, threads=1), feeds), expected)


def test_infinities_in_a_clipped_window_stay() -> None:
    case = Case((1, 1), (1, 1), (0, 0, 0, 0), 1, 3, "ceil", False, 1, (5, 33))
    feeds = {"x": np.full((1, 1, 5, 33), -np.inf, np.float32)}
    found = only(engine.load(build(case), threads=1), feeds)
    assert found.shape == (1, 3, 3, 17)
    assert np.isinf(found).all()
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :, :1, :1], found.shape))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 2)])
def test_nothing_is_read_beside_the_image(strides: tuple[int, int], isa: str) -> None:
    """Widths whose columns of one remainder fill vectors exactly, and one more or less."""
    for pooled in ("", "floor"):
        case = Case((3, 3), strides, (0, 0, 0, 0), 1, 4, pooled, False, 1, (9, 40))
        session = engine.load(build(case), threads=1, isa=isa)
        for width in (8, 15, 16, 17, 30, 31, 32, 33, 61, 63, 64, 65):
            feeds = image(case, (9, width), 1)
            expected = only(session, feeds)
            for form in (at_the_end, at_the_start):
                found = only(session, {"x": form(feeds["x"])})
                assert found.tobytes() == expected.tobytes()

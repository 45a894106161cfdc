"""Convolution through the engine, against onnxruntime, over drawn shapes and attributes."""

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

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """Attributes of one convolution and the sizes to run it at."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    group: int
    channels: int
    outputs: int
    bias: bool
    batch: int
    size: tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn, rank: int) -> Case:
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    depthwise = draw(st.booleans()) and rank < 3
    channels = group * draw(st.integers(1, 5))
    if depthwise:
        group = channels = draw(st.integers(1, 40))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad != "NOTSET":
        dilations = (1,) * rank
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return Case(
        kernel,
        tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        dilations,
        pads if auto_pad == "NOTSET" else (),
        auto_pad,
        group,
        channels,
        channels if depthwise else group * draw(st.integers(1, 40)),
        draw(st.booleans()),
        draw(st.integers(1, 3)),
        tuple(span + draw(st.integers(0, 12)) for span in spans),
    )


def build(case: Case, activation: str | None = None) -> bytes:
    rng = np.random.default_rng(0)
    shape = (case.outputs, case.channels // case.group, *case.kernel)
    weights = {"w": rng.standard_normal(shape).astype(np.float32)}
    if case.bias:
        weights["b"] = rng.standard_normal(case.outputs).astype(np.float32)
    attributes: dict[str, Any] = {
        "kernel_shape": case.kernel,
        "strides": case.strides,
        "dilations": case.dilations,
        "group": case.group,
    }
    if case.auto_pad == "NOTSET":
        attributes["pads"] = case.pads
    else:
        attributes["auto_pad"] = case.auto_pad
    out = "y" if activation is None else "c"
    nodes = [helper.make_node("Conv", ["x", *weights], [out], **attributes)]
    if activation is not None:
        nodes.append(helper.make_node(activation, ["c"], ["y"]))
    axes = [f"s{i}" for i in range(len(case.kernel))]
    return serialise(nodes, [tensor("x", ["n", case.channels, *axes])], ["y"], weights)


def feed(case: Case) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shape = (case.batch, case.channels, *case.size)
    return {"x": rng.standard_normal(shape).astype(np.float32)}


def _is_native(case: Case) -> bool:
    """All but windows of three long axes whose pixels do not lie densely."""
    dense = case.group == 1 and case.dilations[-1] == 1
    return dense or sum(k > 1 for k in case.kernel) < 3


def check(case: Case, isa: str | None = None, activation: str | None = None) -> None:
    model, feeds = build(case, activation), feed(case)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(model, options).run(None, feeds)[0]
    session = engine.load(model, threads=2, isa=isa)
    actual = session.run(feeds)["y"]
    assert_equal(actual, expected, str(case))
    if not _is_native(case):
        return
    assert session.explain().fallback_count == 0
    alone = session.run({"x": feeds["x"][-1:]})["y"]
    assert alone.tobytes() == actual[-1:].tobytes(), "an image alone gives other bytes"


@pytest.mark.parametrize("rank", [1, 2, 3])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_onnxruntime(rank: int, data: st.DataObject) -> None:
    check(data.draw(cases(rank)))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=8, deadline=None)
@given(case=cases(2))
def test_every_instruction_set(isa: str, case: Case) -> None:
    check(case, isa, "Relu")


def test_one_session_serves_shapes_in_any_order() -> None:
    case = Case((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 1, 3, 20, True, 1, (9, 9))
    session = engine.load(build(case), threads=2)
    rng = np.random.default_rng(2)
    shapes = {"A": (1, 3, 17, 23), "B": (4, 3, 5, 60), "C": (2, 3, 40, 8)}
    inputs = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    for key in "ABAC":
        fresh = engine.load(build(case), threads=1).run({"x": inputs[key]})["y"]
        assert session.run({"x": inputs[key]})["y"].tobytes() == fresh.tobytes()
